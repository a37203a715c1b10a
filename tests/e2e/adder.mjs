/** An MCP server of one tool on stdio: JSON-RPC, a message a line. The tests lay it out in a sandbox. */
import { createInterface } from "node:readline";

const answers = {
  initialize: ({ protocolVersion }) => ({
    protocolVersion,
    capabilities: { tools: {} },
    serverInfo: { name: "adder", version: "1" },
  }),
  "tools/list": () => ({
    tools: [
      {
        name: "add",
        description: "adds",
        inputSchema: { type: "object", properties: { a: { type: "number" }, b: { type: "number" } } },
      },
    ],
  }),
  "tools/call": ({ arguments: { a, b } }) => ({ content: [{ type: "text", text: process.env.SAYS + (a + b) }] }),
};
for await (const line of createInterface({ input: process.stdin })) {
  const { id, method, params } = JSON.parse(line);
  if (id === undefined) continue;
  const answer =
    method in answers ? { result: answers[method](params) } : { error: { code: -32601, message: "no such method" } };
  console.log(JSON.stringify({ jsonrpc: "2.0", id, ...answer }));
}
