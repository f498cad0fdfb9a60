//! One connection: its place among all of them, and the bounds of its stream.

mod stream;

use std::collections::HashMap;
use std::hash::Hash;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::OwnedSemaphorePermit;

use crate::memory::Meter;

pub(crate) use stream::BoundedStream;

/// A connection that has been taken; its sessions keep it.
#[derive(Debug)]
pub(crate) struct Connection {
    pub(crate) meter: Arc<Meter>,
    _place: OwnedSemaphorePermit,
    door: Door<IpAddr>,
}

impl Connection {
    pub(crate) fn new(place: OwnedSemaphorePermit, door: Door<IpAddr>, meter: Meter) -> Self {
        Self { meter: Arc::new(meter), _place: place, door }
    }

    /// Where it comes from.
    pub(crate) fn network(&self) -> IpAddr {
        self.door.key
    }
}

/// How many connections there are from each address, or sessions of each principal.
#[derive(Clone, Debug)]
pub(crate) struct Doors<K> {
    most: u32,
    open: Arc<Mutex<HashMap<K, u32>>>,
}

/// One of them; its place is free again when it is dropped.
#[derive(Debug)]
pub(crate) struct Door<K: Eq + Hash> {
    open: Arc<Mutex<HashMap<K, u32>>>,
    key: K,
}

impl<K: Eq + Hash + Clone> Doors<K> {
    pub(crate) fn new(most: u32) -> Self {
        Self { most, open: Arc::default() }
    }

    /// Lets one more in, unless there are too many already.
    pub(crate) fn enter(&self, key: K) -> Option<Door<K>> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let count = open.entry(key.clone()).or_default();
        if *count >= self.most {
            return None;
        }
        *count += 1;
        Some(Door { open: Arc::clone(&self.open), key })
    }
}

impl<K: Eq + Hash> Drop for Door<K> {
    fn drop(&mut self) {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = open.get_mut(&self.key) {
            *count -= 1;
            if *count == 0 {
                open.remove(&self.key);
            }
        }
    }
}

/// Whom an address stands for: whoever has one of an IPv6 network of 64 bits has them all.
pub(crate) fn network(peer: SocketAddr) -> IpAddr {
    match peer.ip().to_canonical() {
        IpAddr::V6(address) => IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() >> 64 << 64)),
        v4 @ IpAddr::V4(_) => v4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_has_so_many_connections_at_a_time() {
        let doors = Doors::new(2);
        let enter = |address: &str| doors.enter(network(address.parse().unwrap()));
        let first = enter("192.0.2.1:1").unwrap();
        let _second = enter("192.0.2.1:2").unwrap();
        assert!(enter("192.0.2.1:3").is_none() && enter("[::ffff:192.0.2.1]:3").is_none());
        let _other = enter("192.0.2.2:1").unwrap();
        drop(first);
        let again = enter("192.0.2.1:3");
        assert!(again.is_some());
        let _six = (enter("[2001:db8::1]:1").unwrap(), enter("[2001:db8::2]:1").unwrap());
        assert!(enter("[2001:db8::3]:1").is_none() && enter("[2001:db8:0:1::3]:1").is_some());
    }

    #[test]
    fn nothing_is_kept_of_who_has_gone() {
        let doors = Doors::new(1);
        drop(doors.enter("ann"));
        assert!(doors.open.lock().unwrap().is_empty());
    }
}
