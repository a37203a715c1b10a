/** `import core from "….wasm"` gives a compiled module, shared by all objects of the isolate. */
declare module "*.wasm" {
  const module: WebAssembly.Module;
  export default module;
}
