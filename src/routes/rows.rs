//! The route table for people.

use std::collections::{BTreeSet, HashMap};

use serde::Serialize;

/// One row of the table.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Row {
    /// The HTTP method.
    pub method: String,
    /// The path as registered.
    pub path: String,
    /// The service that last registered it.
    pub service: String,
    /// The addresses of the instances that serve it now.
    pub instances: Vec<String>,
    /// Two live instances of this service with different routes. Absent if there are none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub conflict: Option<String>,
}

/// Marks the services whose instances have different routes. Two different programs with one name would take turns on
/// the routes that both have.
pub(super) fn mark_conflicts(rows: &mut [Row]) {
    let mut instances: HashMap<&str, BTreeSet<&str>> = HashMap::new();
    for row in rows.iter() {
        instances.entry(&row.service).or_default().extend(row.instances.iter().map(String::as_str));
    }
    let mut conflicts: HashMap<String, String> = HashMap::new();
    for row in rows.iter().filter(|row| !row.instances.is_empty()) {
        let Row { method, path, service, instances: serving, .. } = row;
        let all = &instances[&**service];
        if serving.len() == all.len() || conflicts.contains_key(service) {
            continue;
        }
        let Some(missing) = all.iter().find(|one| !serving.iter().any(|address| address == *one)) else {
            continue;
        };
        let conflict = format!(
            "{service} at {} serves {method} {path}, {service} at {missing} does not; this is normal during an \
             upgrade",
            serving[0]
        );
        conflicts.insert(service.clone(), conflict);
    }
    for row in rows.iter_mut().filter(|row| !row.instances.is_empty()) {
        row.conflict = conflicts.get(&row.service).cloned();
    }
}
