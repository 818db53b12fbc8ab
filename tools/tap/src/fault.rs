//! What may go wrong on request, and which packets it hits.
//!
//! Packets are counted from 1, separately for each direction of each connection. So a fault hits the same packets in
//! every run.

use std::time::Duration;

use clap::{Args, ValueEnum};

use crate::line::Direction;

/// The faults of both directions, as flags.
#[derive(Debug, Clone, Default, Args)]
#[group(id = "faults", multiple = true)]
#[command(next_help_heading = "Faults")]
pub struct Faults {
    /// Pass bytes on after this time. Look for 504 if it exceeds the --timeout of the gateway. Below that, no packet is
    /// lost
    #[arg(long, value_name = "MS", value_parser = clap::value_parser!(u64).range(1..=600_000))]
    delay: Option<u64>,

    /// Pass one byte at a time. Look for no change at all. Only course nodes need whole packets
    #[arg(long)]
    split: bool,

    /// Drop every Nth packet. Look for 504 or a second try on another instance, and never for a client that hangs
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    drop: Option<u64>,

    /// Pass every Nth packet twice. Look for an orphan reply, which the caller counts and drops
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    duplicate: Option<u64>,

    /// Pass only the first half of every Nth packet. Look for a bad frame, a closed link, and a new link
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    truncate: Option<u64>,

    /// Close each connection after N packets. Look for 502 or a second try, and for a link that comes up again
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    close_after: Option<u64>,

    /// The direction in which faults happen
    #[arg(long, value_enum, default_value_t = Side::Both)]
    direction: Side,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
enum Side {
    /// To the node
    To,
    /// From the node
    From,
    #[default]
    /// In both directions
    Both,
}

/// What happens to one packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    Pass,
    Drop,
    Duplicate,
    Truncate,
}

impl Faults {
    /// The faults that happen in this direction.
    pub fn in_direction(&self, direction: Direction) -> Self {
        match (self.direction, direction) {
            (Side::Both, _) | (Side::To, Direction::To) | (Side::From, Direction::From) => self.clone(),
            _ => Self::default(),
        }
    }

    /// How long bytes wait before they pass.
    pub fn delay(&self) -> Duration {
        Duration::from_millis(self.delay.unwrap_or_default())
    }

    /// True if each byte is written alone.
    pub fn has_split(&self) -> bool {
        self.split
    }

    /// True if whole packets must arrive before anything passes. Without these faults, bytes pass as they come.
    pub fn needs_packets(&self) -> bool {
        [self.drop, self.duplicate, self.truncate, self.close_after].iter().any(Option::is_some)
    }

    /// What happens to packet number `number`. If several faults hit it, the worst one wins.
    pub fn action(&self, number: u64) -> Action {
        let hits = |every: Option<u64>| every.is_some_and(|every| number.is_multiple_of(every));
        if hits(self.drop) {
            Action::Drop
        } else if hits(self.truncate) {
            Action::Truncate
        } else if hits(self.duplicate) {
            Action::Duplicate
        } else {
            Action::Pass
        }
    }

    /// True if the connection closes after packet number `number`.
    pub fn closes_after(&self, number: u64) -> bool {
        self.close_after == Some(number)
    }
}

impl Action {
    /// The action as a word of the output. A packet that simply passes has none.
    pub fn word(self) -> Option<&'static str> {
        match self {
            Self::Pass => None,
            Self::Drop => Some("dropped"),
            Self::Duplicate => Some("duplicated"),
            Self::Truncate => Some("truncated"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_nth_packet_is_hit_and_the_worst_fault_wins() {
        let faults = Faults { drop: Some(6), truncate: Some(3), duplicate: Some(2), ..Faults::default() };
        let actions: Vec<Action> = (1..=6).map(|number| faults.action(number)).collect();
        let expected = [
            Action::Pass,
            Action::Duplicate,
            Action::Truncate,
            Action::Duplicate,
            Action::Pass,
            Action::Drop,
        ];
        assert_eq!(actions, expected);
    }

    #[test]
    fn a_fault_happens_in_its_direction_only() {
        let faults = Faults { drop: Some(1), direction: Side::From, ..Faults::default() };
        assert!(faults.in_direction(Direction::From).needs_packets());
        assert!(!faults.in_direction(Direction::To).needs_packets());
    }
}
