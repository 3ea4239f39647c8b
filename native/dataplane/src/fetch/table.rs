//! The partitions, which broker each is fetched from, and the buffer: all that the engine's thread, the user's thread and
//! the connections' threads share, behind one lock that nobody holds while waiting, reading or decoding.

use std::any::Any;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::request::Wanted;
use crate::buffer::{Buffer, Entry, Failure, Item};
use crate::record::Chunk;
use crate::signal::Signal;

/// No offset, no leader, no epoch.
pub(crate) const NONE: i32 = -1;
const UNKNOWN: i64 = -1;

/// One partition of the assignment. Written under the table's lock: by the engine's thread (assign, seek, leader, pause),
/// by the fetch loop that has it (fetch offset, marks of the log), by the user's thread (consumed).
#[derive(Debug)]
pub(crate) struct Partition {
    pub topic: Arc<str>,
    pub topic_id: [u8; 16],
    pub number: i32,
    /// What the maker of the partition wants back with its records.
    pub context: Arc<dyn Any + Send + Sync>,
    /// Grows with every seek; no two partitions, and no two seeks, have the same.
    pub epoch: u64,
    pub leader: i32,
    pub leader_epoch: i32,
    /// What to ask for next; -1 without a position.
    pub fetch_offset: i64,
    /// What `poll` returns next; -1 without a position.
    pub consumed_offset: i64,
    /// The leader epoch of the last record returned.
    pub consumed_epoch: i32,
    pub is_paused: bool,
    /// After an error code, until the engine has dealt with it.
    pub is_suspended: bool,
    /// After bytes that cannot be decoded, or `fail`, until a seek.
    pub is_failed: bool,
    /// The headers of an answer make no sense; its decoder will say so behind the records that stand before.
    pub awaits_failure: bool,
    /// The fetch loop that has an answer for it and isn't done. While it is set, no other loop may fetch on: a new leader's
    /// records could overtake those that the old leader sent, which wait for room in the buffer.
    pub decoded_by: Option<u64>,
    pub high_watermark: i64,
    pub last_stable_offset: i64,
    pub log_start_offset: i64,
    /// What `poll` has handed out of it: records, and bytes of their keys and values.
    pub records_returned: u64,
    pub bytes_returned: u64,
}

impl Partition {
    fn is_fetchable_by(&self, rider: u64) -> bool {
        self.fetch_offset >= 0
            && !self.is_paused
            && !self.is_suspended
            && !self.is_failed
            && !self.awaits_failure
            && self.decoded_by.is_none_or(|owner| owner == rider)
    }

    fn consumed(&mut self, next_offset: i64) {
        // A rollback of a fetch loop may bring a marker that lies behind.
        self.consumed_offset = self.consumed_offset.max(next_offset);
    }
}

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

/// A broker.
#[derive(Debug, Default)]
pub(crate) struct Node {
    /// The partitions it leads, in the order in which the next request lists them.
    pub order: Vec<u64>,
    pub seat: Option<Seat>,
    /// When partitions began to become fetchable, and when the last one did; None once that has settled.
    pub settling: Option<(Instant, Instant)>,
    /// After a whole response failed, until somebody attaches or names this leader anew.
    pub rests: bool,
}

/// Records that `poll` takes out: `chunk[start..end]`.
pub struct Taken {
    /// The partition's handle.
    pub handle: u64,
    /// The context given to `assign`.
    pub context: Arc<dyn Any + Send + Sync>,
    /// Where the records are.
    pub chunk: Arc<Chunk>,
    /// Index of the first one.
    pub start: usize,
    /// Index after the last one.
    pub end: usize,
    /// The partition's position after them.
    pub next_offset: i64,
    /// Bytes of their keys and values.
    pub bytes: u64,
}

/// What is next in line.
pub(crate) enum Drained {
    Records(Vec<Taken>),
    Failure(Arc<dyn Any + Send + Sync>, Failure),
}

pub(crate) struct Table {
    pub partitions: HashMap<u64, Partition>,
    pub nodes: HashMap<i32, Node>,
    pub buffer: Buffer,
    /// Fetch loops that found no room.
    waiting_for_room: Vec<Arc<Signal>>,
    /// `poll` is waiting, or about to; whoever adds to the buffer raises the fetcher's signal then.
    pub poll_waits: bool,
    /// Somebody watches the fetcher's descriptor, and is told of all that comes, waiting `poll` or not.
    pub is_watched: bool,
    pub woken: bool,
    pub closed: bool,
    next_number: u64,
}

impl Table {
    pub fn new(budget_bytes: usize) -> Self {
        Self {
            partitions: HashMap::new(),
            nodes: HashMap::new(),
            buffer: Buffer::new(budget_bytes),
            waiting_for_room: Vec::new(),
            poll_waits: false,
            is_watched: false,
            woken: false,
            closed: false,
            next_number: 1,
        }
    }

    /// Whether `poll` would return at once, or raise.
    pub fn has_news(&self) -> bool {
        !self.buffer.is_empty() || self.woken || self.closed
    }

    /// Handles, epochs and riders are numbered from one counter: none is ever used twice.
    pub fn number(&mut self) -> u64 {
        let number = self.next_number;
        self.next_number += 1;
        number
    }

    // ------------------------------------------------ the engine's side

    pub fn assign(
        &mut self,
        topic: Arc<str>,
        topic_id: [u8; 16],
        number: i32,
        context: Arc<dyn Any + Send + Sync>,
    ) -> u64 {
        let (handle, epoch) = (self.number(), self.number());
        let partition = Partition {
            topic,
            topic_id,
            number,
            context,
            epoch,
            leader: NONE,
            leader_epoch: NONE,
            fetch_offset: UNKNOWN,
            consumed_offset: UNKNOWN,
            consumed_epoch: NONE,
            is_paused: false,
            is_suspended: false,
            is_failed: false,
            awaits_failure: false,
            decoded_by: None,
            high_watermark: UNKNOWN,
            last_stable_offset: UNKNOWN,
            log_start_offset: UNKNOWN,
            records_returned: 0,
            bytes_returned: 0,
        };
        self.partitions.insert(handle, partition);
        handle
    }

    pub fn unassign(&mut self, handles: &[u64]) {
        let mut leaders = HashSet::new();
        let mut gone = HashSet::new();
        for &handle in handles {
            if let Some(partition) = self.partitions.remove(&handle) {
                leaders.insert(partition.leader);
                gone.insert(handle);
                self.buffer.forget(handle);
            }
        }
        for leader in leaders {
            if let Some(node) = self.nodes.get_mut(&leader) {
                node.order.retain(|handle| !gone.contains(handle));
            }
        }
        self.buffer.remove(|handle| gone.contains(&handle));
        self.wake_those_without_room();
    }

    pub fn set_leader(&mut self, handle: u64, node_id: i32, leader_epoch: i32) {
        let Some(partition) = self.partitions.get_mut(&handle) else {
            return;
        };
        partition.leader_epoch = leader_epoch;
        partition.is_suspended = false;
        let before = std::mem::replace(&mut partition.leader, node_id);
        if before != node_id {
            if let Some(node) = self.nodes.get_mut(&before) {
                node.order.retain(|&other| other != handle);
            }
            if node_id >= 0 {
                self.nodes.entry(node_id).or_default().order.push(handle);
            }
        }
        if let Some(node) = self.nodes.get_mut(&node_id) {
            node.rests = false;
        }
        self.wake_node(node_id);
    }

    /// A new epoch, in which the partition is fetched from `offset` on; what is buffered is forgotten.
    pub fn seek(&mut self, handle: u64, offset: i64, last_leader_epoch: i32) -> Option<u64> {
        let epoch = self.number();
        let partition = self.partitions.get_mut(&handle)?;
        let was_empty = partition.fetch_offset == partition.consumed_offset && !partition.is_failed;
        partition.epoch = epoch;
        partition.fetch_offset = offset.max(UNKNOWN);
        partition.consumed_offset = partition.fetch_offset;
        partition.consumed_epoch = last_leader_epoch;
        partition.is_failed = false;
        partition.awaits_failure = false;
        partition.is_suspended = false;
        partition.decoded_by = None;
        let leader = partition.leader;
        if !was_empty {
            self.buffer.remove(|other| other == handle);
            self.wake_those_without_room();
        }
        self.wake_node(leader);
        Some(epoch)
    }

    /// The log ends at `end_offset`, or another one goes on there. Where more than that was fetched, all that `poll` has not
    /// returned is forgotten, and fetching starts over from the position. Returns the position and its leader epoch.
    pub fn cut(&mut self, handle: u64, end_offset: i64) -> Option<(i64, i32)> {
        let partition = self.partitions.get(&handle)?;
        let (offset, epoch) = (partition.consumed_offset, partition.consumed_epoch);
        let reaches_beyond = partition.fetch_offset > end_offset;
        if offset < 0 {
            return None;
        }
        if reaches_beyond {
            self.seek(handle, offset, epoch)?;
        }
        Some((offset, epoch))
    }

    pub fn pause(&mut self, handles: &[u64]) {
        for handle in handles {
            if let Some(partition) = self.partitions.get_mut(handle) {
                partition.is_paused = true;
                self.buffer.park(*handle, true);
            }
        }
        // One that waits for room may hold what can be parked now.
        self.wake_those_without_room();
    }

    pub fn resume(&mut self, handles: &[u64]) {
        // The first of the list comes to stand first.
        for handle in handles.iter().rev() {
            let Some(partition) = self.partitions.get_mut(handle) else {
                continue;
            };
            partition.is_paused = false;
            let leader = partition.leader;
            self.buffer.unpark(*handle);
            self.wake_node(leader);
        }
    }

    /// The partition ends with this failure, which stands behind what is buffered.
    pub fn fail(&mut self, handle: u64, failure: Failure) {
        let Some(partition) = self.partitions.get_mut(&handle) else {
            return;
        };
        let epoch = partition.epoch;
        if std::mem::replace(&mut partition.is_failed, true)
            && self.buffer.replace_failure(handle, &failure)
        {
            return;
        }
        let item = Item::Failure(failure);
        self.buffer.push(Entry {
            handle,
            epoch,
            item,
        });
    }

    // ------------------------------------------------ the user's side

    /// Up to `max_records` from the front of the line, or the failure that stands there.
    pub fn drain(&mut self, max_records: usize) -> Drained {
        let mut taken: Vec<Taken> = Vec::new();
        let mut left = max_records;
        while left > 0 {
            let Some(entry) = self.buffer.front() else {
                break;
            };
            let (handle, epoch) = (entry.handle, entry.epoch);
            let Some(partition) = self
                .partitions
                .get_mut(&handle)
                .filter(|p| p.epoch == epoch)
            else {
                self.buffer.pop();
                continue;
            };
            match &mut entry.item {
                Item::Marker { next_offset } => {
                    partition.consumed(*next_offset);
                    if let Some(last) = taken.last_mut().filter(|last| last.handle == handle) {
                        last.next_offset = *next_offset;
                    }
                    self.buffer.pop();
                }
                Item::Failure(_) if !taken.is_empty() => break,
                Item::Failure(failure) => {
                    // To the back of the line: the others' records come in between.
                    let failure = failure.clone();
                    let context = Arc::clone(&partition.context);
                    if let Some(entry) = self.buffer.pop() {
                        self.buffer.push(entry);
                    }
                    return Drained::Failure(context, failure);
                }
                Item::Records {
                    chunk,
                    cursor,
                    next_offset,
                } => {
                    let part = take(handle, partition, chunk, *cursor, *next_offset, left);
                    let count = part.end - part.start;
                    *cursor = part.end;
                    left -= count;
                    self.buffer.returned(count);
                    if part.end == part.chunk.len() {
                        self.buffer.pop();
                    }
                    taken.push(part);
                }
            }
        }
        if self.buffer.is_low() {
            self.wake_those_without_room();
        }
        Drained::Records(taken)
    }

    // ------------------------------------------------ the fetch loops' side

    pub fn has_seat(&self, node_id: i32, rider: u64) -> bool {
        let seat = self.nodes.get(&node_id).and_then(|node| node.seat.as_ref());
        !self.closed && seat.is_some_and(|seat| seat.rider == rider)
    }

    pub fn plan(&self, node_id: i32, rider: u64) -> Vec<Wanted> {
        let node = self.nodes.get(&node_id).filter(|node| !node.rests);
        let Some(node) = node.filter(|_| self.has_seat(node_id, rider)) else {
            return Vec::new();
        };
        let wanted = node.order.iter().filter_map(|&handle| {
            let partition = self.partitions.get(&handle)?;
            partition.is_fetchable_by(rider).then(|| Wanted {
                handle,
                epoch: partition.epoch,
                topic: Arc::clone(&partition.topic),
                topic_id: partition.topic_id,
                partition: partition.number,
                offset: partition.fetch_offset,
                leader_epoch: partition.leader_epoch,
            })
        });
        wanted.collect()
    }

    /// Those that returned data go last, so that the broker's limit of a response does not starve the others.
    pub fn rotate(&mut self, node_id: i32, had_data: &HashSet<u64>) {
        if let Some(node) = self
            .nodes
            .get_mut(&node_id)
            .filter(|_| !had_data.is_empty())
        {
            node.order.sort_by_key(|handle| had_data.contains(handle));
        }
    }

    /// Whether an entry may go into the line now; if not, `signal` is raised when that may have changed.
    pub fn has_room_for(&mut self, entry: &Entry, signal: &Arc<Signal>) -> bool {
        let is_parked = self
            .partitions
            .get(&entry.handle)
            .is_some_and(|p| p.is_paused);
        if is_parked || self.buffer.has_room(entry.bytes()) {
            return true;
        }
        if !self
            .waiting_for_room
            .iter()
            .any(|other| Arc::ptr_eq(other, signal))
        {
            self.waiting_for_room.push(Arc::clone(signal));
        }
        false
    }

    pub fn is_current(&self, handle: u64, epoch: u64) -> bool {
        self.partitions
            .get(&handle)
            .is_some_and(|partition| partition.epoch == epoch)
    }

    /// The loop has pushed all that it had of this partition: another one may fetch it now.
    pub fn release(&mut self, handle: u64, epoch: u64, rider: u64) {
        let Some(partition) = self.partitions.get_mut(&handle) else {
            return;
        };
        if partition.epoch == epoch && partition.decoded_by == Some(rider) {
            partition.decoded_by = None;
            let leader = partition.leader;
            // The loop itself was never kept from fetching on.
            if !self.has_seat(leader, rider) {
                self.wake_node(leader);
            }
        }
    }

    /// The loop ends without having pushed what it had: it has to be fetched again, from `offset` on.
    pub fn roll_back(&mut self, handle: u64, epoch: u64, rider: u64, offset: i64) {
        let Some(partition) = self.partitions.get_mut(&handle) else {
            return;
        };
        if partition.epoch == epoch && partition.decoded_by == Some(rider) {
            partition.fetch_offset = offset;
            partition.awaits_failure = false;
            self.release(handle, epoch, rider);
        }
    }

    /// Something can be fetched from this node now.
    fn wake_node(&mut self, node_id: i32) {
        let Some(node) = self.nodes.get_mut(&node_id) else {
            return;
        };
        let now = Instant::now();
        node.settling = Some((node.settling.map_or(now, |(first, _)| first), now));
        if let Some(seat) = &node.seat {
            seat.signal.notify();
        }
    }

    /// When the node's partitions will have settled; None if they have.
    pub fn settles_at(&mut self, node_id: i32) -> Option<Instant> {
        let node = self.nodes.get_mut(&node_id)?;
        let (first, last) = node.settling?;
        let at = (last + SETTLE).min(first + SETTLE_AT_MOST);
        if at > Instant::now() {
            return Some(at);
        }
        node.settling = None;
        None
    }

    pub fn wake_all(&mut self) {
        for node in self.nodes.values() {
            if let Some(seat) = &node.seat {
                seat.signal.notify();
            }
        }
        self.wake_those_without_room();
    }

    fn wake_those_without_room(&mut self) {
        for signal in self.waiting_for_room.drain(..) {
            signal.notify();
        }
    }
}

/// The next records of a chunk, and the partition's position moved past them. `next_offset` is that after the whole chunk.
fn take(
    handle: u64,
    partition: &mut Partition,
    chunk: &Arc<Chunk>,
    start: usize,
    next_offset: i64,
    at_most: usize,
) -> Taken {
    let end = chunk.len().min(start.saturating_add(at_most));
    let last = end.saturating_sub(1);
    let next_offset = if end == chunk.len() {
        next_offset
    } else {
        chunk.offset(last) + 1
    };
    partition.consumed(next_offset);
    partition.consumed_epoch = chunk.leader_epoch(last);
    let bytes = chunk.payload_bytes(start, end);
    partition.records_returned += (end - start) as u64;
    partition.bytes_returned += bytes;
    Taken {
        handle,
        context: Arc::clone(&partition.context),
        chunk: Arc::clone(chunk),
        start,
        end,
        next_offset,
        bytes,
    }
}
