"""The host calls: binds wasm_sandbox to the policy kernel, the data set and the graph and plan sinks."""
