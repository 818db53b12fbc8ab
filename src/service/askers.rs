//! The peers that are connected to this service.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, OnceLock};

use crate::net::peer::Peer;
use crate::packet::Head;
use crate::packet::course::is_from_pilcrow;
use crate::sync::lock;

/// The connected peers. A service that stops notifies each of them directly. The list may arrive late or never, and a
/// request sent before it arrives would be lost.
#[derive(Debug, Default)]
pub(super) struct Askers {
    connected: Mutex<HashMap<u64, Arc<Peer>>>,
    /// The packet that announces that the service leaves, if it does. Peers that connect or are recognised later
    /// receive it too.
    leaving: OnceLock<Vec<u8>>,
}

impl Askers {
    pub(super) fn add(&self, peer: &Arc<Peer>) {
        lock(&self.connected).insert(peer.id(), peer.clone());
    }

    pub(super) fn remove(&self, peer: &Peer) {
        lock(&self.connected).remove(&peer.id());
    }

    /// Announces to all peers of ours that the service leaves. Course nodes would not understand the packet.
    pub(super) fn announce_leaving(&self, packet: Vec<u8>) {
        let packet = self.leaving.get_or_init(|| packet);
        let connected: Vec<Arc<Peer>> = lock(&self.connected).values().cloned().collect();
        for peer in connected {
            peer.part(packet);
        }
    }

    /// Marks a peer as one of ours, if this request shows it.
    pub(super) fn recognise(&self, peer: &Peer, head: &Head<'_>) {
        if is_from_pilcrow(head)
            && peer.set_pilcrow()
            && let Some(packet) = self.leaving.get()
        {
            peer.part(packet);
        }
    }
}
