//! The fetch loop of one broker. It rides on a connection's thread: at most one request is outstanding, the next one is
//! sent as soon as the headers of an answer's batches have told where it starts, and only then is the answer decoded,
//! chunk by chunk, for as long as the buffer has room.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::fetcher::Shared;
use super::request::{self, FetchPlan, Wanted};
use super::response::{self, PartitionData, TopicKey};
use super::table::{NONE, Table};
use super::{add, measure};
use crate::batch::{self, Scan};
use crate::buffer::{Entry, Failure, Item};
use crate::connection::{Rider, Work};
use crate::decode::Decoder;
use crate::error::{DecodeError, DecodeErrorKind};
use crate::events::Event;
use crate::signal::Signal;

/// Answers up to this size are decoded before the next request is sent. It takes microseconds, and where few records come, the
/// first of them counts: sending first would wake the broker, which might take the very core that `poll` is about to run on.
const SMALL_FRAME_BYTES: usize = 16 << 10;

/// What is left of one partition's part of an answer.
struct PartitionWork {
    handle: u64,
    epoch: u64,
    decoder: Decoder,
    records: Bytes,
    /// What has been pushed reaches to here; where to fetch from if the rest is lost with the connection.
    pushed_offset: i64,
}

/// An answer's part that says something of a partition which is still the one that was asked for.
struct Answer {
    index: usize,
    data: PartitionData,
    scan: Result<Scan, DecodeError>,
}

fn error_event(wanted: &Wanted, data: &PartitionData) -> Event {
    let (leader_id, leader_epoch) = data.current_leader.unwrap_or((NONE, NONE));
    Event::FetchError {
        handle: wanted.handle,
        epoch: wanted.epoch,
        error_code: data.error_code,
        fetch_offset: wanted.offset,
        leader_id,
        leader_epoch,
    }
}

/// What an answer says of one partition.
enum Verdict {
    /// Records to decode.
    Data,
    /// An error code that the engine has to deal with.
    Error(Event),
    /// No records.
    Nothing,
    /// It was asked for under other circumstances.
    Stale,
}

pub(crate) struct FetchLoop {
    pub shared: Arc<Shared>,
    pub number: u64,
    pub node_id: i32,
    pub connection_id: i64,
    pub version: i16,
    pub signal: Arc<Signal>,
    /// "" once the broker named a follower that is not fetched from: without a rack it serves the records itself.
    rack: String,
    outstanding: Vec<Wanted>,
    asked_version: i16,
    /// When the last request was made.
    asked_at: Instant,
    work: VecDeque<PartitionWork>,
    /// Decoded, of the first partition in `work`, without room yet.
    pending: Option<Entry>,
    /// No request before: the broker throttles, or the engine is still naming partitions.
    quiet_until: Option<Instant>,
}

impl FetchLoop {
    pub fn new(
        shared: Arc<Shared>,
        number: u64,
        node_id: i32,
        connection_id: i64,
        version: i16,
        signal: Arc<Signal>,
    ) -> Self {
        let rack = shared.config.client_rack.clone();
        Self {
            shared,
            number,
            node_id,
            connection_id,
            version,
            signal,
            rack,
            outstanding: Vec::new(),
            asked_version: version,
            asked_at: Instant::now(),
            work: VecDeque::new(),
            pending: None,
            quiet_until: None,
        }
    }

    /// Pairs an answer's partitions with those asked for, by place where the broker kept the order, else by name.
    fn matching(&self, frame: &Bytes) -> Result<(response::Response, Vec<Answer>), String> {
        let mut answers = Vec::new();
        let mut expected = 0;
        let mut by_name: Option<HashMap<(&str, i32), usize>> = None;
        let mut by_id: Option<HashMap<([u8; 16], i32), usize>> = None;
        let all = self.outstanding.iter().enumerate();
        let response = response::read(frame, self.asked_version, |topic, data| {
            let is_expected = self.outstanding.get(expected).is_some_and(|wanted| {
                wanted.partition == data.partition
                    && match topic {
                        TopicKey::Name(name) => *name == &*wanted.topic,
                        TopicKey::Id(id) => *id == wanted.topic_id,
                    }
            });
            let found = if is_expected {
                Some(expected)
            } else {
                let number = data.partition;
                match topic {
                    TopicKey::Name(name) => by_name
                        .get_or_insert_with(|| {
                            all.clone()
                                .map(|(at, w)| ((&*w.topic, w.partition), at))
                                .collect()
                        })
                        .get(&(*name, number))
                        .copied(),
                    TopicKey::Id(id) => by_id
                        .get_or_insert_with(|| {
                            all.clone()
                                .map(|(at, w)| ((w.topic_id, w.partition), at))
                                .collect()
                        })
                        .get(&(*id, number))
                        .copied(),
                }
            };
            if let Some(index) = found {
                expected = index + 1;
                let scan = batch::scan(&data.records);
                add(&self.shared.stats.fetch_bytes, data.records.len());
                answers.push(Answer { index, data, scan });
            }
        })
        .map_err(|flaw| {
            format!(
                "its Fetch response (version {}) cannot be read: {flaw}",
                self.asked_version
            )
        })?;
        Ok((response, answers))
    }

    /// Takes note of what the answer says of each partition; what is to be decoded becomes `work`.
    fn accept(&mut self, answers: Vec<Answer>) {
        let shared = Arc::clone(&self.shared);
        let mut events = Vec::new();
        let mut had_data = HashSet::new();
        let mut table = shared.table();
        for answer in answers {
            let Some(wanted) = self.outstanding.get(answer.index).cloned() else {
                continue;
            };
            match self.accept_one(&mut table, &wanted, answer) {
                Verdict::Error(event) => events.push(event),
                Verdict::Data => {
                    had_data.insert(wanted.handle);
                }
                Verdict::Nothing => {}
                Verdict::Stale => add(&shared.stats.stale, 1),
            }
        }
        table.rotate(self.node_id, &had_data);
        drop(table);
        for event in events {
            add(&shared.stats.errors, 1);
            shared.events.push(event);
        }
    }

    fn accept_one(&mut self, table: &mut Table, wanted: &Wanted, answer: Answer) -> Verdict {
        let Answer { data, scan, .. } = answer;
        let (handle, epoch) = (wanted.handle, wanted.epoch);
        let current = table.partitions.get_mut(&handle).filter(|partition| {
            // The offset: another broker may have been asked meanwhile, and have answered first. The leader: an error of
            // one that leads no more says nothing new.
            partition.epoch == epoch
                && partition.fetch_offset == wanted.offset
                && !partition.is_failed
                && (data.error_code == 0 || partition.leader == self.node_id)
        });
        let Some(partition) = current else {
            return Verdict::Stale;
        };
        if data.error_code != 0 {
            partition.is_suspended = true;
            return Verdict::Error(error_event(wanted, &data));
        }
        partition.high_watermark = data.high_watermark;
        partition.last_stable_offset = data.last_stable_offset;
        partition.log_start_offset = data.log_start_offset;
        if data.records.is_empty() {
            if data.preferred_read_replica >= 0 && data.preferred_read_replica != self.node_id {
                self.rack.clear();
            }
            return Verdict::Nothing;
        }
        match scan {
            Ok(Scan {
                next_offset: Some(next),
                ..
            }) if next <= wanted.offset => {
                return Verdict::Nothing;
            }
            Ok(Scan {
                next_offset: Some(next),
                batches,
                ..
            }) => {
                add(&self.shared.stats.batches, batches);
                partition.fetch_offset = next;
            }
            // The decoder tells what is wrong, after the records that stand before it.
            Ok(Scan {
                next_offset: None, ..
            })
            | Err(_) => partition.awaits_failure = true,
        }
        partition.decoded_by = Some(self.number);
        let config = &self.shared.config;
        let aborted = config.reads_committed().then_some(data.aborted);
        let records = data.records;
        let decoder = Decoder::new(records.clone(), wanted.offset, &config.decode, aborted);
        let pushed_offset = wanted.offset;
        self.work.push_back(PartitionWork {
            handle,
            epoch,
            decoder,
            records,
            pushed_offset,
        });
        Verdict::Data
    }

    /// The entry that comes next of the first partition, or None once it is through.
    fn decode_next(&mut self) -> Option<Entry> {
        let soft_limit = self.shared.config.chunk_bytes();
        let work = self.work.front_mut()?;
        let (handle, epoch) = (work.handle, work.epoch);
        let entry = |item| {
            Some(Entry {
                handle,
                epoch,
                item,
            })
        };
        match work.decoder.next_chunk(soft_limit) {
            Ok(Some(chunk)) => {
                let next_offset = work.decoder.next_offset();
                entry(Item::Records {
                    chunk: Arc::new(chunk),
                    cursor: 0,
                    next_offset,
                })
            }
            Ok(None) => {
                let next_offset = work.decoder.next_offset();
                (next_offset > work.pushed_offset).then(|| entry(Item::Marker { next_offset }))?
            }
            Err(error) => {
                let stats = &self.shared.stats;
                add(&stats.decode_failures, 1);
                if error.kind == DecodeErrorKind::Corrupt && error.message.contains("checksum") {
                    add(&stats.crc_failures, 1);
                }
                let past = super::offset_past(&work.records, work.decoder.remaining_bytes());
                entry(Item::Failure(Failure::Decode {
                    error: Arc::new(error),
                    past,
                }))
            }
        }
    }

    /// Puts an entry into the buffer; back with it if there is no room.
    fn push(&mut self, entry: Entry) -> Result<(), Entry> {
        let shared = Arc::clone(&self.shared);
        let mut table = shared.table();
        if !table.is_current(entry.handle, entry.epoch) {
            drop(table);
            self.drop_first();
            return Ok(());
        }
        if !table.has_room_for(&entry, &self.signal) {
            add(&shared.stats.full_waits, 1);
            return Err(entry);
        }
        let is_last = match &entry.item {
            Item::Records {
                next_offset, chunk, ..
            } => {
                add(&shared.stats.chunks, 1);
                add(&shared.stats.records, chunk.len());
                self.pushed_up_to(*next_offset);
                false
            }
            Item::Marker { next_offset } => {
                self.pushed_up_to(*next_offset);
                false
            }
            Item::Failure(_) => {
                if let Some(partition) = table.partitions.get_mut(&entry.handle) {
                    partition.is_failed = true;
                }
                true
            }
        };
        let (handle, epoch) = (entry.handle, entry.epoch);
        table.buffer.push(entry);
        if is_last {
            table.release(handle, epoch, self.number);
            self.work.pop_front();
        }
        shared.wake_poll(table);
        Ok(())
    }

    fn pushed_up_to(&mut self, next_offset: i64) {
        if let Some(work) = self.work.front_mut() {
            work.pushed_offset = next_offset;
        }
    }

    /// The first partition is through, or nobody wants it any more.
    fn drop_first(&mut self) {
        if let Some(work) = self.work.pop_front() {
            self.shared
                .table()
                .release(work.handle, work.epoch, self.number);
        }
    }

    fn abandon(&mut self) {
        self.pending = None;
        if self.work.is_empty() {
            return;
        }
        let shared = Arc::clone(&self.shared);
        let mut table = shared.table();
        for work in self.work.drain(..) {
            table.roll_back(work.handle, work.epoch, self.number, work.pushed_offset);
        }
    }

    fn is_seated(&self, table: &Table) -> bool {
        table.has_seat(self.node_id, self.number)
    }
}

impl Rider for FetchLoop {
    fn request(&mut self, correlation_id: i32) -> Option<Vec<u8>> {
        if self.quiet_until.is_some_and(|until| until > Instant::now()) {
            return None;
        }
        let mut table = self.shared.table();
        self.quiet_until = table.settles_at(self.node_id);
        if self.quiet_until.is_some() {
            return None;
        }
        let wanted = table.plan(self.node_id, self.number);
        drop(table);
        if wanted.is_empty() {
            return None;
        }
        let plan = FetchPlan::full(wanted);
        self.asked_version = plan.version(self.version);
        let config = &self.shared.config;
        let bytes = request::encode(
            &plan,
            self.asked_version,
            correlation_id,
            config,
            &self.rack,
        );
        self.outstanding = plan.wanted;
        self.asked_at = Instant::now();
        add(&self.shared.stats.fetches, 1);
        Some(bytes)
    }

    fn response(&mut self, frame: Bytes) -> Result<(), String> {
        let stats = &self.shared.stats;
        add(&stats.responses, 1);
        add(&stats.bytes, frame.len());
        let latency_us = u64::try_from(self.asked_at.elapsed().as_micros()).unwrap_or(u64::MAX);
        measure(
            &stats.fetch_latency_us_total,
            &stats.fetch_latency_us_max,
            latency_us,
        );
        if !self.is_seated(&self.shared.table()) {
            return Ok(());
        }
        let (response, answers) = self.matching(&frame)?;
        if let Ok(ms @ 1..) = u64::try_from(response.throttle_time_ms) {
            measure(&stats.throttle_ms_total, &stats.throttle_ms_max, ms);
            // The broker mutes the connection for as long (KIP-219); asking earlier would only lengthen its queue.
            self.quiet_until = Instant::now().checked_add(Duration::from_millis(ms));
        }
        if response.error_code != 0 {
            add(&stats.errors, 1);
            if let Some(node) = self.shared.table().nodes.get_mut(&self.node_id) {
                node.rests = true;
            }
            let (connection, error_code) = (self.connection_id, response.error_code);
            self.shared.events.push(Event::FetchNodeError {
                connection,
                error_code,
            });
            return Ok(());
        }
        self.accept(answers);
        self.outstanding.clear();
        if frame.len() <= SMALL_FRAME_BYTES {
            while self.work() == Work::More {}
        }
        Ok(())
    }

    fn work(&mut self) -> Work {
        if self.work.is_empty() {
            return Work::Idle;
        }
        if !self.is_seated(&self.shared.table()) {
            self.abandon();
            return Work::Idle;
        }
        let Some(entry) = self.pending.take().or_else(|| self.decode_next()) else {
            self.drop_first();
            return Work::More;
        };
        match self.push(entry) {
            Ok(()) => Work::More,
            Err(entry) => {
                self.pending = Some(entry);
                Work::Blocked
            }
        }
    }

    fn response_timeout(&self) -> Duration {
        let wait =
            Duration::from_millis(u64::try_from(self.shared.config.max_wait_ms).unwrap_or(0));
        self.shared.config.request_timeout + wait
    }

    fn wake_at(&self) -> Option<Instant> {
        self.quiet_until
    }
}

impl Drop for FetchLoop {
    fn drop(&mut self) {
        self.abandon();
        let mut table = self.shared.table();
        if let Some(node) = table.nodes.get_mut(&self.node_id)
            && node
                .seat
                .as_ref()
                .is_some_and(|seat| seat.rider == self.number)
        {
            node.seat = None;
        }
        drop(table);
        self.shared.loops.fetch_sub(1, Ordering::Relaxed);
    }
}
