//! The list of a distributor.

use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::check::Failure;
use crate::check::Verdict;
use crate::connection::{Connection, seconds};
use crate::language::{Text, text};
use crate::packet;
use crate::setup::Running;

const LOOK_EVERY: Duration = Duration::from_millis(100);

/// The name and the port of a node.
pub type Entry<'a> = (&'a str, u16);

/// The packet in which a distributor sends its list.
pub fn list_packet(entries: &[Value]) -> Value {
    json!({ "uri": "/distributes", "method": "GET", "key": 0, "params": entries })
}

/// The packet in which a node registers.
pub fn registration((name, port): Entry) -> Value {
    let urls = [format!("GET/{name}")];
    let params = json!({ "port": port, "name": name, "urls": urls });
    json!({ "uri": "/distributes", "method": "POST", "key": 0, "params": params })
}

/// Whether the list in this packet has the node.
pub fn has_entry(list: &Value, (name, port): Entry) -> bool {
    let is_it = |entry: &Value| entry["name"] == name && entry["port"] == port;
    list["params"].as_array().is_some_and(|entries| entries.iter().any(is_it))
}

/// Connects again and again, until the first list has this node.
pub fn await_entry(distributor: &Running, entry: Entry, within: Duration) -> Verdict {
    let deadline = Instant::now() + within;
    let before = distributor.transcript().lines().len();
    let ((name, port), (en, ko)) = (entry, seconds(within));
    let expected = text!(
        "{name} with port {port} in the list within {en}",
        "{ko} 안에 포트 {port}인 노드 {name} 항목이 목록에 있어야 합니다"
    );
    loop {
        let mut observer = distributor.connect(["observer", "관찰자"])?;
        let list = observer.receive(&expected)?;
        if has_entry(&list, entry) {
            return Ok(());
        }
        if Instant::now() > deadline {
            return Err(Failure::new(expected, Text::same(packet::text(&list))));
        }
        distributor.transcript().truncate(before);
        thread::sleep(LOOK_EVERY);
    }
}

/// Reads pushed lists until one is as expected. The failure shows the last one.
pub fn await_list(
    node: &mut Connection,
    within: Duration,
    expected: &Text,
    is_expected: impl Fn(&Value) -> bool,
) -> Result<Value, Failure> {
    let deadline = Instant::now() + within;
    let mut previous: Option<Value> = None;
    loop {
        let rest = deadline.saturating_duration_since(Instant::now());
        let list = match node.receive_within(rest, expected) {
            Ok(list) if is_expected(&list) => return Ok(list),
            Ok(list) => list,
            // After a list that is not as expected, it is the one to show.
            Err(failure) => {
                let got = previous.map_or(failure.got, |list| Text::same(packet::text(&list)));
                return Err(Failure::new(expected.clone(), got));
            }
        };
        previous = Some(list);
    }
}
