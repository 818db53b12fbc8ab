//! Conflicts: two programs with one name would take turns on the routes that both have.

use std::collections::HashSet;
use std::fmt;

use crate::node::Node;

/// How many routes a [`Conflict`] names for each side.
const SHOWN_ROUTES: usize = 10;

/// Two instances with one name and different routes. They are different programs, or different versions of one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Conflict {
    name: String,
    /// The address of each side, and the routes that only this side has.
    sides: [(String, Vec<String>); 2],
}

impl Conflict {
    /// The conflict between two nodes, if there is one. A node that leaves, or that has no routes, has none.
    pub(super) fn between(one: &Node, other: &Node) -> Option<Self> {
        let is_serving = |node: &Node| !node.urls.is_empty() && !node.is_leaving();
        let is_comparable = one.name == other.name && one.address() != other.address();
        if !is_comparable || !is_serving(one) || !is_serving(other) || one.urls == other.urls {
            return None;
        }
        let own_routes = |node: &Node, other: &Node| {
            let known: HashSet<&String> = other.urls.iter().collect();
            (node.address(), node.urls.iter().filter(|url| !known.contains(url)).cloned().collect())
        };
        let sides: [(String, Vec<String>); 2] = [own_routes(one, other), own_routes(other, one)];
        let is_conflict = sides.iter().any(|(_, own)| !own.is_empty());
        is_conflict.then(|| Self { name: one.name.clone(), sides })
    }
}

impl fmt::Display for Conflict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [(one, _), (other, _)] = &self.sides;
        write!(f, "{} at {one} and {} at {other} have different routes:", self.name, self.name)?;
        for (address, own) in self.sides.iter().filter(|(_, own)| !own.is_empty()) {
            write!(f, " only {address} has {}", own[..own.len().min(SHOWN_ROUTES)].join(" "))?;
            match own.len().saturating_sub(SHOWN_ROUTES) {
                0 => f.write_str(";")?,
                more => write!(f, " and {more} more;")?,
            }
        }
        f.write_str(" this is normal during an upgrade; two different programs need two names")
    }
}
