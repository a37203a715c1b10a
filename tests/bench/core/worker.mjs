/** The contenders inside workerd: `/?what=parse&input=big&n=5` runs one n times. The clock is the caller's. */
import bench from "./bench.wasm";
import { contenders } from "./contenders.mjs";
import core from "./core.wasm";
import { inputs } from "./inputs.gen.mjs";

let all;
export default {
  fetch(request) {
    all ??= contenders({ bench, core }, inputs);
    const { searchParams } = new URL(request.url);
    let seen;
    for (let n = Number(searchParams.get("n")); n > 0; n--)
      seen = all[searchParams.get("what")](searchParams.get("input"));
    return Response.json(seen ?? {});
  },
};
