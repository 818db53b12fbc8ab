//! The route table finds the instance that answers `METHOD /path`. It is a pure value, without sockets.
//!
//! A route is `METHOD/path` as a service registers it, such as `GET/users`. A request matches the exact path, or the
//! path without its last segment. That segment is then the *path parameter*: `GET /users/1` reaches `GET/users` with
//! `1`. A route stays after its last instance ends. So "no live instance" (503) and "no such route" (404) are
//! different answers.

mod rows;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::atomic::{AtomicUsize, Ordering};

pub use self::rows::Row;

/// How many routes the table can hold, with or without instances.
const MAX_ROUTES_IN_TABLE: usize = 10_000;

/// The route table. `T` is the handle of an instance: a link, or any value in tests.
#[derive(Debug)]
pub struct Routes<T> {
    /// Routes by path, then by method. One lookup finds the route, or the methods that the path allows.
    paths: HashMap<String, BTreeMap<String, Route<T>>>,
    count: usize,
}

#[derive(Debug)]
struct Route<T> {
    /// The service that registered it last.
    service: String,
    instances: Vec<Instance<T>>,
    /// The index where the search for the least busy instance begins. It moves, so ties are broken round-robin.
    turn: AtomicUsize,
}

#[derive(Debug)]
struct Instance<T> {
    address: String,
    handle: T,
}

/// The meaning of a method and a path.
#[derive(Debug, PartialEq, Eq)]
pub enum Resolved<'a> {
    /// The path of the route, and the last segment of the request if it was cut off.
    Route(&'a str, Option<&'a str>),
    /// The path exists, with these methods.
    MethodNotAllowed(Vec<String>),
    /// The path does not exist.
    NotFound,
}

impl<T> Default for Routes<T> {
    fn default() -> Self {
        Self { paths: HashMap::new(), count: 0 }
    }
}

impl<T: Clone> Routes<T> {
    /// Replaces the routes of the instance at `address` with `urls`. Returns the added (`+`) and removed (`-`) routes
    /// for the log. Skips a URL that is not `METHOD/path`, because no request can reach it.
    pub fn set(&mut self, address: &str, service: &str, urls: &[String], handle: &T) -> Vec<String> {
        let mut changes = Vec::new();
        let wanted: Vec<(&str, &str)> = urls.iter().filter_map(|url| split_url(url)).collect();
        self.retain_instance(address, |method, path| wanted.contains(&(method, path)), &mut changes);
        for (method, path) in wanted {
            let Some(route) = self.route(method, path) else {
                changes
                    .push(format!("{method} {path} skipped: the table holds {MAX_ROUTES_IN_TABLE} routes"));
                continue;
            };
            service.clone_into(&mut route.service);
            if let Some(known) = route.instances.iter_mut().find(|instance| instance.address == address) {
                known.handle = handle.clone();
            } else {
                route.instances.push(Instance { address: address.to_owned(), handle: handle.clone() });
                changes.push(format!("+ {method} {path}"));
            }
        }
        changes
    }

    /// The route of this name, created if missing. A full table first drops the routes without an instance. Returns
    /// `None` if it is still full.
    fn route(&mut self, method: &str, path: &str) -> Option<&mut Route<T>> {
        if !self.has_route(method, path) {
            if self.count >= MAX_ROUTES_IN_TABLE {
                self.drop_unserved();
            }
            if self.count >= MAX_ROUTES_IN_TABLE {
                return None;
            }
            self.count += 1;
        }
        let methods = self.paths.entry(path.to_owned()).or_default();
        Some(methods.entry(method.to_owned()).or_insert_with(Route::new))
    }

    fn drop_unserved(&mut self) {
        for methods in self.paths.values_mut() {
            methods.retain(|_, route| !route.instances.is_empty());
        }
        self.paths.retain(|_, methods| !methods.is_empty());
        self.count = self.paths.values().map(BTreeMap::len).sum();
    }

    /// Removes the instance at `address` from every route. Returns the removed routes for the log.
    pub fn remove(&mut self, address: &str) -> Vec<String> {
        let mut changes = Vec::new();
        self.retain_instance(address, |_, _| false, &mut changes);
        changes
    }

    fn retain_instance(
        &mut self,
        address: &str,
        keep: impl Fn(&str, &str) -> bool,
        changes: &mut Vec<String>,
    ) {
        for (path, methods) in &mut self.paths {
            for (method, route) in methods {
                let before = route.instances.len();
                route.instances.retain(|instance| instance.address != address || keep(method, path));
                if route.instances.len() < before {
                    changes.push(format!("- {method} {path}"));
                }
            }
        }
    }

    fn has_route(&self, method: &str, path: &str) -> bool {
        self.paths.get(path).is_some_and(|methods| methods.contains_key(method))
    }

    /// Finds the route of a request: the exact path first, then its parent.
    #[must_use]
    pub fn resolve<'a>(&self, method: &str, path: &'a str) -> Resolved<'a> {
        if self.has_route(method, path) {
            return Resolved::Route(path, None);
        }
        let parent = split_parent(path);
        if let Some((parent, segment)) = parent
            && self.has_route(method, parent)
        {
            return Resolved::Route(parent, Some(segment));
        }
        let known = [Some(path), parent.map(|(parent, _)| parent)].into_iter().flatten();
        let methods = known.filter_map(|path| self.paths.get(path)).flat_map(BTreeMap::keys);
        let allowed: BTreeSet<&String> = methods.collect();
        if allowed.is_empty() {
            return Resolved::NotFound;
        }
        Resolved::MethodNotAllowed(allowed.into_iter().cloned().collect())
    }

    /// The instance of a route with the smallest `load`; ties are broken round-robin. `load` returns `None` for an
    /// instance that cannot accept a request now.
    pub fn pick<L: Ord>(&self, method: &str, path: &str, load: impl Fn(&str, &T) -> Option<L>) -> Option<T> {
        let route = self.paths.get(path)?.get(method)?;
        let count = route.instances.len();
        if count == 0 {
            return None;
        }
        let first = route.turn.fetch_add(1, Ordering::Relaxed) % count;
        let in_turn = (first..count).chain(0..first).map(|at| &route.instances[at]);
        let able = in_turn.filter_map(|one| load(&one.address, &one.handle).map(|load| (load, &one.handle)));
        // `min_by` returns the first of several minima, so the instance at `turn` wins a tie.
        able.min_by(|(one, _), (other, _)| one.cmp(other)).map(|(_, handle)| handle.clone())
    }

    /// True if any route has an instance that `able` accepts.
    pub fn has_instance(&self, able: impl Fn(&T) -> bool) -> bool {
        self.paths
            .values()
            .flat_map(BTreeMap::values)
            .flat_map(|route| &route.instances)
            .any(|one| able(&one.handle))
    }

    /// All routes, sorted by path and method, with the instances that `able` accepts.
    #[must_use]
    pub fn rows(&self, able: impl Fn(&T) -> bool) -> Vec<Row> {
        let mut rows = Vec::with_capacity(self.count);
        for (path, methods) in &self.paths {
            for (method, route) in methods {
                let able = route.instances.iter().filter(|instance| able(&instance.handle));
                rows.push(Row {
                    method: method.clone(),
                    path: path.clone(),
                    service: route.service.clone(),
                    instances: able.map(|instance| instance.address.clone()).collect(),
                    conflict: None,
                });
            }
        }
        rows.sort_by(|a, b| (&a.path, &a.method).cmp(&(&b.path, &b.method)));
        rows::mark_conflicts(&mut rows);
        rows
    }
}

impl<T> Route<T> {
    fn new() -> Self {
        Self { service: String::new(), instances: Vec::new(), turn: AtomicUsize::new(0) }
    }
}

/// Splits `GET/users` into `GET` and `/users`.
fn split_url(url: &str) -> Option<(&str, &str)> {
    let (method, path) = url.split_at(url.find('/')?);
    // Both appear in answers and in the log. A node's text must not forge a header or a line.
    let is_method =
        !method.is_empty() && method.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
    (is_method && !path.contains(char::is_control)).then_some((method, path))
}

/// Splits a path into its parent and its last segment. Returns `None` if either would be empty.
fn split_parent(path: &str) -> Option<(&str, &str)> {
    let (parent, segment) = path.rsplit_once('/')?;
    (!parent.is_empty() && !segment.is_empty()).then_some((parent, segment))
}

#[cfg(test)]
mod tests;
