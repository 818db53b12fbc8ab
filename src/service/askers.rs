//! The peers that are connected to this service.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, OnceLock};

use crate::net::peer::Peer;
use crate::packet::Head;
use crate::packet::course::is_from_pilcrow;
use crate::sync::lock;

/// The connected peers. When the service ends, it notifies each of them directly: the list may come late or never, and
/// a request that is sent meanwhile would be lost.
#[derive(Debug, Default)]
pub(super) struct Askers {
    connected: Mutex<HashMap<u64, Arc<Peer>>>,
    /// The packet that says that the service leaves, once it does. Peers that connect or are recognised later get it too.
    leaving: OnceLock<Vec<u8>>,
}

impl Askers {
    pub(super) fn add(&self, peer: &Arc<Peer>) {
        lock(&self.connected).insert(peer.id(), peer.clone());
    }

    pub(super) fn remove(&self, peer: &Peer) {
        lock(&self.connected).remove(&peer.id());
    }

    /// Tells all peers of ours that the service leaves. Course nodes would not understand it.
    pub(super) fn announce_leaving(&self, packet: Vec<u8>) {
        let packet = self.leaving.get_or_init(|| packet);
        let connected: Vec<Arc<Peer>> = lock(&self.connected).values().cloned().collect();
        for peer in connected {
            peer.part(packet);
        }
    }

    /// Remembers that a peer is one of ours, if this request shows it.
    pub(super) fn recognise(&self, peer: &Peer, head: &Head<'_>) {
        if is_from_pilcrow(head)
            && peer.set_pilcrow()
            && let Some(packet) = self.leaving.get()
        {
            peer.part(packet);
        }
    }
}
