/** The Worker that the tests run in: the objects under test and scripted neighbours. */
import { DurableObject } from "cloudflare:workers";

export { Session } from "../../worker/src/session/session.js";
export { FakeSandbox } from "./fake-sandbox.js";

/** An object whose storage tests may use as they like. */
export class Scratch extends DurableObject {}

export default {
  fetch(): Response {
    return new Response("tests\n");
  },
} satisfies ExportedHandler;
export { Tenant } from "../../worker/src/identity/tenant.js";
