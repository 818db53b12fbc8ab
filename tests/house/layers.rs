//! The layers of the library, from the lowest to the highest.

/// One layer. A module may use its own layer and earlier ones.
pub struct Layer {
    pub name: &'static str,
    /// Modules, each with all modules below it.
    pub modules: &'static [&'static str],
}

const fn layer(name: &'static str, modules: &'static [&'static str]) -> Layer {
    Layer { name, modules }
}

pub const LAYERS: [Layer; 7] = [
    layer(
        "values",
        &[
            "address",
            "byte_reader",
            "clock",
            "context",
            "node",
            "packet",
            "registry",
            "routes",
            "sync",
            "thread",
        ],
    ),
    layer("observe", &["observe"]),
    layer("net", &["net"]),
    layer("http", &["http"]),
    layer("kit", &["mesh", "metrics_page", "pool", "process", "service", "subscription"]),
    layer("programs", &["distributor", "gateway", "users"]),
    layer("bin", &["bin"]),
];

/// Modules that must not use certain others although the layers permit it, with the reason.
pub const FORBIDDEN: &[(&str, &[&str], &str)] = &[
    ("observe", &["packet", "node", "registry", "routes"], "what is observed is for the caller to say"),
    ("http", &["packet", "node", "registry", "routes", "context"], "HTTP knows no packet"),
    ("packet", &["node", "registry", "routes"], "a packet does not know what it carries"),
    ("net", &["registry", "routes"], "connections know no route"),
    ("mesh", &["service"], "who calls need not be a service"),
    ("metrics_page", &["mesh", "service"], "a page of metrics calls no service"),
    ("distributor", &["mesh", "gateway", "users", "service", "http"], "the distributor calls no service"),
    ("gateway", &["distributor", "users", "service"], "the gateway knows no service by name"),
    ("users", &["distributor", "gateway", "http", "mesh", "net"], "a service is written with the kit alone"),
];

/// Whether `module` is `prefix` or below it.
pub fn is_within(module: &str, prefix: &str) -> bool {
    module.strip_prefix(prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with("::"))
}

/// The layer of a module, counted from the lowest.
pub fn layer_of(module: &str) -> Option<usize> {
    LAYERS.iter().position(|layer| layer.modules.iter().any(|prefix| is_within(module, prefix)))
}
