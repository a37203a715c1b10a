/** What waits for somebody's word: git pushes. */
import { z } from "@hono/zod-openapi";
import { tenantObject } from "../identity/quotas.js";
import { type App, endpoint } from "./endpoint.js";
import { json } from "./json.js";
import { sessionObject, unwrap } from "./session-object.js";

const ApprovalSchema = z
  .object({
    id: z.string(),
    kind: z.enum(["git_push"]),
    state: z.enum(["pending", "approved", "denied", "expired", "withdrawn"]),
    host: z.string(),
    path: z.string(),
    refs: z.array(z.object({ ref: z.string(), old: z.string(), new: z.string() })).openapi({
      description: "As the push names them; all zeros for a ref that is made or removed",
    }),
    diff: z.string().openapi({ description: "What the push would bring, by the sandbox's own repository" }),
    diff_truncated: z.boolean(),
    created_at: z.string(),
    expires_at: z.string().openapi({ description: "After this it is refused" }),
    resolved_at: z.string().nullable(),
    resolved_by: z.string(),
    reason: z.string(),
  })
  .openapi("Approval");
const DecisionSchema = z
  .strictObject({
    decision: z.enum(["approve", "deny"]),
    reason: z.string().max(500).optional().openapi({ description: "Shown to whoever pushed" }),
  })
  .openapi("Decision");

/** items and characters: of a push's refs in the log of acts; the approval has them whole. */
const ACT_REFS_MAX = 32;
const ACT_REF_MAX = 256;

export function registerApprovals(app: App): void {
  endpoint(app, {
    method: "get",
    path: "/v1/sessions/{id}/approvals",
    tag: "Policy",
    summary: "Pushes that wait for an approval, and those that did",
    description: "Oldest first, the last 50. Live as `approval.requested` and `approval.resolved` events.",
    answers: {
      200: {
        description: "The approvals",
        content: { "application/json": z.object({ approvals: z.array(ApprovalSchema) }) },
      },
    },
    async handler({ env, session }) {
      return json({ approvals: unwrap(await sessionObject(env, session).approvals()) });
    },
  });

  endpoint(app, {
    method: "post",
    path: "/v1/sessions/{id}/approvals/{approval}",
    tag: "Policy",
    scope: "approve",
    summary: "Approve or deny a push",
    description: "Needs the scope `approve`, which `sessions:write` does not include. The first word holds.",
    body: DecisionSchema,
    answers: { 200: { description: "The approval", content: { "application/json": ApprovalSchema } } },
    problems: [409],
    async handler({ env, caller, params, session, body }) {
      const state = body.decision === "approve" ? "approved" : "denied";
      const object = sessionObject(env, session);
      const by = caller.subject;
      const approval = unwrap(await object.resolveApproval(params.approval, state, by, body.reason ?? ""));
      await tenantObject(env, caller.tenant).act({
        act: `approval.${state}`,
        by,
        session: session.id,
        approval: approval.id,
        host: approval.host,
        refs: approval.refs.slice(0, ACT_REFS_MAX).map(({ ref }) => ref.slice(0, ACT_REF_MAX)),
        refs_count: approval.refs.length,
      });
      return json(approval);
    },
  });
}
