"""Labels, the policy kernel (pure), the public header and the loader of spec/policy.toml."""
