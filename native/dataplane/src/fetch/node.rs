//! A broker as the partition table knows it: what is fetched from it, in which order, and what changed.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::signal::Signal;

/// The fetch loop of a broker, as others reach it.
#[derive(Debug)]
pub(crate) struct Seat {
    pub rider: u64,
    pub signal: Arc<Signal>,
}

/// A broker is asked only once nothing has changed for this time. The engine names partitions one by one; a request that
/// left at the first of them would keep the others waiting for its answer, `fetch.max.wait.ms` at worst.
const SETTLE: Duration = Duration::from_millis(1);
const SETTLE_AT_MOST: Duration = Duration::from_millis(20);

/// A broker. Written under the table's lock.
#[derive(Debug, Default)]
pub(crate) struct Node {
    /// The partitions that are fetched from it, by rank: the order in which a request that lists all names them.
    pub order: BTreeMap<u64, u64>,
    /// Handles of which its loop may have something new to tell. Bounded by the partitions that were here since the loop last
    /// looked; without a loop nothing is noted, since a new one begins with all of `order`.
    changed: HashSet<u64>,
    seat: Option<Seat>,
    /// When partitions began to become fetchable, and when the last one did; None once that has settled.
    settling: Option<(Instant, Instant)>,
    /// After a whole response failed, until somebody attaches or names this broker anew.
    pub rests: bool,
    /// Until then no rack is named to it: it serves the records itself instead of naming a follower (KIP-392).
    pub serves_itself_until: Option<Instant>,
    /// The fetch session that its last loop left behind; 0 for none. The next loop's first request ends it (KIP-227).
    pub left_session: i32,
    /// Fetch requests sent to it.
    pub fetches: u64,
    /// Bytes of record batches that came from it.
    pub bytes: u64,
}

impl Node {
    pub fn seat(&self) -> Option<&Seat> {
        self.seat.as_ref()
    }

    /// A loop takes the place of the one before.
    pub fn take_seat(&mut self, seat: Seat) {
        self.rests = false;
        self.changed.clear();
        self.seat = Some(seat);
    }

    pub fn leave_seat(&mut self) -> Option<Seat> {
        self.changed.clear();
        self.seat.take()
    }

    /// The loop should look at this partition before it asks again.
    pub fn touch(&mut self, handle: u64) {
        if self.seat.is_some() {
            self.changed.insert(handle);
        }
    }

    pub fn take_changed(&mut self) -> HashSet<u64> {
        std::mem::take(&mut self.changed)
    }

    /// Something can be fetched now.
    pub fn wake(&mut self) {
        let now = Instant::now();
        self.settling = Some((self.settling.map_or(now, |(first, _)| first), now));
        if let Some(seat) = &self.seat {
            seat.signal.notify();
        }
    }

    /// When its partitions will have settled; None if they have.
    pub fn settles_at(&mut self) -> Option<Instant> {
        let (first, last) = self.settling?;
        let at = (last + SETTLE).min(first + SETTLE_AT_MOST);
        if at > Instant::now() {
            return Some(at);
        }
        self.settling = None;
        None
    }

    pub fn names_rack(&self) -> bool {
        self.serves_itself_until
            .is_none_or(|until| until <= Instant::now())
    }
}
