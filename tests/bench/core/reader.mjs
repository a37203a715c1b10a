/** Source text of a function that reads from a parsed line what a dialect's table names: plain property accesses. */

const KEY = 0;
const ANY_KEY = 1;

/** `table`: lines of `parent step captured key`, as build/bench.wasm describes it. */
export function readerSource(table) {
  const nodes = table
    .trimEnd()
    .split("\n")
    .map((line, at) => {
      const [parent, step, captured, key] = line.split(" ");
      return { at, parent: Number(parent), step: Number(step), captured: captured === "1", key };
    });
  const children = (node) => nodes.slice(1).filter((n) => n.parent === node.at);
  let names = 0;
  function visit(node, value) {
    const kids = children(node);
    const keys = kids.filter((n) => n.step === KEY);
    const any = kids.find((n) => n.step === ANY_KEY);
    const each = kids.find((n) => n.step > ANY_KEY);
    const text = node.captured
      ? `if (typeof ${value} === "string") { seen.fields += 1; if (${value} !== "") seen.sum += ${value}.charCodeAt(0); }\n`
      : "";
    let inside = "";
    for (const kid of keys) {
      const v = `v${names++}`;
      inside += `const ${v} = ${value}[${JSON.stringify(kid.key)}];\nif (${v} !== undefined) {\n${visit(kid, v)}}\n`;
    }
    if (any !== undefined) {
      const k = `v${names++}`;
      const v = `v${names++}`;
      const skip = keys.map((n) => `${k} !== ${JSON.stringify(n.key)}`).join(" && ");
      inside += `for (const ${k} in ${value}) ${skip === "" ? "" : `if (${skip}) `}{\nconst ${v} = ${value}[${k}];\n${visit(any, v)}}\n`;
    }
    let out = text;
    if (inside !== "")
      out += `if (typeof ${value} === "object" && ${value} !== null && !Array.isArray(${value})) {\n${inside}}\n`;
    if (each !== undefined) {
      const v = `v${names++}`;
      out += `if (Array.isArray(${value})) for (const ${v} of ${value}) {\n${visit(each, v)}}\n`;
    }
    return out;
  }
  return `(line, seen) => {\n${visit(nodes[0], "line")}}`;
}
