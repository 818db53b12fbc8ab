//! Which instance answers `METHOD /path`: a pure value, without sockets.
//!
//! A route is `METHOD/path` as a service registers it, such as `GET/users`. Requests find it in two steps: the
//! exact path, or else the path without its last segment, which then is the *path parameter*: `GET /users/1`
//! reaches `GET/users` with `1`. A route outlives its instances, so that "nobody serves this now" can be told
//! from "there is no such thing".

mod rows;

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicUsize, Ordering};

pub use self::rows::Row;

/// How many routes the table holds, served or not.
const MAX_ROUTES_IN_TABLE: usize = 10_000;

/// The route table. `T` is the handle of an instance: a link, or in tests anything.
#[derive(Debug)]
pub struct Routes<T> {
    /// By path and then by method, so that one look tells both the route and what else the path allows.
    paths: HashMap<String, BTreeMap<String, Route<T>>>,
    count: usize,
}

#[derive(Debug)]
struct Route<T> {
    /// Who registered it last.
    service: String,
    instances: Vec<Instance<T>>,
    /// Where the search for the least busy instance begins; it moves, so that equals take turns.
    turn: AtomicUsize,
}

#[derive(Debug)]
struct Instance<T> {
    address: String,
    handle: T,
}

/// What a method and a path mean.
#[derive(Debug, PartialEq, Eq)]
pub enum Resolved<'a> {
    /// The route under this path; the last segment of the request, if that was cut off.
    Route(&'a str, Option<&'a str>),
    /// The path is known, with these methods.
    MethodNotAllowed(Vec<String>),
    /// The path is not known.
    NotFound,
}

impl<T> Default for Routes<T> {
    fn default() -> Self {
        Self { paths: HashMap::new(), count: 0 }
    }
}

impl<T: Clone> Routes<T> {
    /// Makes `urls` the routes of the instance at `address`, in place of those it had. What came (`+`) and went
    /// (`-`), for the log. An URL that is not `METHOD/path` can never be asked for and is left out.
    pub fn set(&mut self, address: &str, service: &str, urls: &[String], handle: &T) -> Vec<String> {
        let mut changes = Vec::new();
        let wanted: Vec<(&str, &str)> = urls.iter().filter_map(|url| split(url)).collect();
        self.retain(address, |method, path| wanted.contains(&(method, path)), &mut changes);
        for (method, path) in wanted {
            let Some(route) = self.route(method, path) else {
                changes
                    .push(format!("{method} {path} left out: the table holds {MAX_ROUTES_IN_TABLE} routes"));
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

    /// The route of this name, a new one if need be. When the table is full, routes that nobody serves any more
    /// make room; if all are served, there is none.
    fn route(&mut self, method: &str, path: &str) -> Option<&mut Route<T>> {
        if !self.knows(method, path) {
            if self.count >= MAX_ROUTES_IN_TABLE {
                self.forget_unserved();
            }
            if self.count >= MAX_ROUTES_IN_TABLE {
                return None;
            }
            self.count += 1;
        }
        let methods = self.paths.entry(path.to_owned()).or_default();
        Some(methods.entry(method.to_owned()).or_insert_with(Route::unserved))
    }

    fn forget_unserved(&mut self) {
        for methods in self.paths.values_mut() {
            methods.retain(|_, route| !route.instances.is_empty());
        }
        self.paths.retain(|_, methods| !methods.is_empty());
        self.count = self.paths.values().map(BTreeMap::len).sum();
    }

    /// Takes the instance at `address` out of every route. What went, for the log.
    pub fn remove(&mut self, address: &str) -> Vec<String> {
        let mut changes = Vec::new();
        self.retain(address, |_, _| false, &mut changes);
        changes
    }

    fn retain(&mut self, address: &str, keep: impl Fn(&str, &str) -> bool, changes: &mut Vec<String>) {
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

    fn knows(&self, method: &str, path: &str) -> bool {
        self.paths.get(path).is_some_and(|methods| methods.contains_key(method))
    }

    /// Finds the route of a request: the exact path first, then its parent.
    #[must_use]
    pub fn resolve<'a>(&self, method: &str, path: &'a str) -> Resolved<'a> {
        if self.knows(method, path) {
            return Resolved::Route(path, None);
        }
        let parent = parent(path);
        if let Some((parent, segment)) = parent
            && self.knows(method, parent)
        {
            return Resolved::Route(parent, Some(segment));
        }
        let known = [Some(path), parent.map(|(parent, _)| parent)];
        let mut allowed: Vec<String> = known
            .into_iter()
            .flatten()
            .filter_map(|path| self.paths.get(path))
            .flat_map(BTreeMap::keys)
            .cloned()
            .collect();
        if allowed.is_empty() {
            return Resolved::NotFound;
        }
        allowed.sort();
        allowed.dedup();
        Resolved::MethodNotAllowed(allowed)
    }

    /// The instance of a route with the least `load`, round robin among equals. `load` is nothing for those that
    /// cannot take a request now.
    pub fn pick<L: Ord>(&self, method: &str, path: &str, load: impl Fn(&str, &T) -> Option<L>) -> Option<T> {
        let route = self.paths.get(path)?.get(method)?;
        let count = route.instances.len();
        if count == 0 {
            return None;
        }
        let first = route.turn.fetch_add(1, Ordering::Relaxed) % count;
        let in_turn = (first..count).chain(0..first).map(|at| &route.instances[at]);
        let able = in_turn.filter_map(|one| load(&one.address, &one.handle).map(|load| (load, &one.handle)));
        // `min_by` keeps the first among equals, which is the one whose turn it is.
        able.min_by(|(one, _), (other, _)| one.cmp(other)).map(|(_, handle)| handle.clone())
    }

    /// Whether any route has an instance that `able` accepts.
    pub fn any(&self, able: impl Fn(&T) -> bool) -> bool {
        self.paths
            .values()
            .flat_map(BTreeMap::values)
            .flat_map(|route| &route.instances)
            .any(|one| able(&one.handle))
    }

    /// All routes, sorted by path and method, with those of their instances that `able` accepts.
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
    fn unserved() -> Self {
        Self { service: String::new(), instances: Vec::new(), turn: AtomicUsize::new(0) }
    }
}

/// `GET/users` as `GET` and `/users`.
fn split(url: &str) -> Option<(&str, &str)> {
    let (method, path) = url.split_at(url.find('/')?);
    // Both stand in answers and in the log: a node's text must not be able to forge either.
    let is_method =
        !method.is_empty() && method.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
    (is_method && !path.contains(char::is_control)).then_some((method, path))
}

/// A path without its last segment, and that segment; nothing if either would be empty.
fn parent(path: &str) -> Option<(&str, &str)> {
    let (parent, segment) = path.rsplit_once('/')?;
    (!parent.is_empty() && !segment.is_empty()).then_some((parent, segment))
}

#[cfg(test)]
mod tests;
