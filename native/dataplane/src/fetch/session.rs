//! A fetch session (KIP-227): what the broker has been told, so that a request lists only what changed since, and an answer
//! only what is new. Both cost what changed, however many partitions stand still.
//!
//! Source: KIP-227; Kafka's `FetchSessionHandler` and `FetchSession.scala`, whose rules it keeps:
//!
//! | asked | answered | then |
//! | --- | --- | --- |
//! | (0, 0) or (id, 0): all partitions, a new session in place of id | session id n | (n, 1) |
//! | | session id 0: the broker's cache is full | (0, 0): everything again each time |
//! | (id, epoch): what changed | the same id | (id, epoch + 1), after the greatest 1 |
//! | | `FETCH_SESSION_ID_NOT_FOUND`, or session id 0 | (0, 0) |
//! | | any other error | (id, 0) |

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use super::request::{FetchPlan, TOPIC_IDS_FROM, Wanted};
use super::response::TopicKey;

const NO_SESSION: i32 = 0;
const FULL: i32 = 0;
const FETCH_SESSION_ID_NOT_FOUND: i16 = 70;
const INVALID_FETCH_SESSION_EPOCH: i16 = 71;
const UNKNOWN_TOPIC_ID: i16 = 100;
const INCONSISTENT_TOPIC_ID: i16 = 103;
const FETCH_SESSION_TOPIC_ID_ERROR: i16 = 106;

/// A partition as a request of this session names it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Place {
    Name(Arc<str>, i32),
    Id([u8; 16], i32),
}

/// What becomes of a session after an error of a whole response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Lost {
    /// The error is none of sessions.
    No,
    /// A full request mends it.
    Reset,
    /// A full request, perhaps with other topic ids: metadata is old.
    ResetAndRefresh,
}

/// Handles by place. Only one of the maps is in use, as requests name topics either way.
#[derive(Debug, Default)]
struct Places {
    names: HashMap<Arc<str>, HashMap<i32, u64>>,
    ids: HashMap<[u8; 16], HashMap<i32, u64>>,
}

impl Places {
    fn get(&self, topic: &TopicKey<'_>, partition: i32) -> Option<u64> {
        let partitions = match topic {
            TopicKey::Name(name) => self.names.get(*name),
            TopicKey::Id(id) => self.ids.get(id),
        };
        partitions?.get(&partition).copied()
    }

    fn insert(&mut self, place: &Place, handle: u64) {
        match place {
            Place::Name(name, partition) => self
                .names
                .entry(Arc::clone(name))
                .or_default()
                .insert(*partition, handle),
            Place::Id(id, partition) => self.ids.entry(*id).or_default().insert(*partition, handle),
        };
    }

    /// Removes a place if it is this handle's.
    fn remove(&mut self, place: &Place, handle: u64) -> bool {
        let (partitions, partition) = match place {
            Place::Name(name, partition) => (self.names.get_mut(name), partition),
            Place::Id(id, partition) => (self.ids.get_mut(id), partition),
        };
        let Some(partitions) = partitions.filter(|p| p.get(partition) == Some(&handle)) else {
            return false;
        };
        partitions.remove(partition);
        if partitions.is_empty() {
            match place {
                Place::Name(name, _) => drop(self.names.remove(name)),
                Place::Id(id, _) => drop(self.ids.remove(id)),
            }
        }
        true
    }
}

/// Belongs to one fetch loop, which has one request outstanding at most: `known` is what that request asked for.
#[derive(Debug)]
pub(crate) struct Session {
    id: i32,
    /// Of the next request; FULL: it lists everything.
    epoch: i32,
    /// Topics go by their ids.
    by_ids: bool,
    /// What the broker knows, or will with the next request.
    known: HashMap<u64, Wanted>,
    places: Places,
    /// Partitions in `known` whose topic's id is not known.
    without_id: usize,
    /// Of `known`, what the broker has not heard yet.
    to_list: HashSet<u64>,
    /// What the broker knows and should not. Disjoint from the places of `known`: of a partition that a request both lists and
    /// forgets, the broker forgets it.
    to_forget: HashSet<Place>,
}

impl Session {
    /// `left` is a session of this broker that nobody uses any more, or 0: the first request ends it.
    pub fn new(left: i32) -> Self {
        Self {
            id: left,
            epoch: FULL,
            by_ids: false,
            known: HashMap::new(),
            places: Places::default(),
            without_id: 0,
            to_list: HashSet::new(),
            to_forget: HashSet::new(),
        }
    }

    /// The broker's number of it; 0 without one.
    pub fn id(&self) -> i32 {
        self.id
    }

    /// The broker keeps the order of partitions, and turns it round itself.
    pub fn is_open(&self) -> bool {
        self.epoch != FULL
    }

    fn place(&self, wanted: &Wanted) -> Place {
        if self.by_ids {
            Place::Id(wanted.topic_id, wanted.partition)
        } else {
            Place::Name(Arc::clone(&wanted.topic), wanted.partition)
        }
    }

    /// What is wanted of a partition now; None: nothing.
    pub fn note(&mut self, handle: u64, wanted: Option<Wanted>) {
        let by_ids = self.by_ids;
        match (self.known.get_mut(&handle), wanted) {
            (None, None) => {}
            (Some(before), Some(wanted)) if before.is_named_as(&wanted, by_ids) => {
                if !before.asks_the_same_as(&wanted) {
                    self.to_list.insert(handle);
                }
                self.without_id += usize::from(!wanted.has_topic_id());
                self.without_id -= usize::from(!before.has_topic_id());
                *before = wanted;
            }
            (_, wanted) => {
                self.remove(handle);
                if let Some(wanted) = wanted {
                    self.insert(handle, wanted);
                }
            }
        }
    }

    fn insert(&mut self, handle: u64, wanted: Wanted) {
        let place = self.place(&wanted);
        self.places.insert(&place, handle);
        self.to_forget.remove(&place);
        self.to_list.insert(handle);
        self.without_id += usize::from(!wanted.has_topic_id());
        self.known.insert(handle, wanted);
    }

    fn remove(&mut self, handle: u64) {
        let Some(before) = self.known.remove(&handle) else {
            return;
        };
        let place = self.place(&before);
        self.without_id -= usize::from(!before.has_topic_id());
        self.to_list.remove(&handle);
        // A partition that was assigned anew has its place already, under another handle.
        if self.places.remove(&place, handle) {
            self.to_forget.insert(place);
        }
    }

    /// The next request, or None where nothing is wanted. `order` gives all handles of the broker, for a request that lists
    /// everything; `highest` is the version to speak where every topic has an id.
    pub fn next(&mut self, order: impl Iterator<Item = u64>, highest: i16) -> Option<FetchPlan> {
        if self.known.is_empty() {
            return None;
        }
        let by_ids = highest >= TOPIC_IDS_FROM && self.without_id == 0;
        if by_ids != self.by_ids {
            self.name_topics(by_ids);
        }
        let (wanted, forgotten) = if self.epoch == FULL {
            self.to_list.clear();
            self.to_forget.clear();
            let all = order.filter_map(|handle| self.known.get(&handle).cloned());
            (all.collect(), Vec::new())
        } else {
            let news = self.to_list.drain();
            let mut news: Vec<_> = news.filter_map(|handle| self.known.get(&handle)).collect();
            news.sort_unstable_by_key(|wanted| (&wanted.topic, wanted.topic_id, wanted.partition));
            let mut forgotten: Vec<_> = self.to_forget.drain().collect();
            forgotten.sort_unstable();
            (news.into_iter().cloned().collect(), forgotten)
        };
        Some(FetchPlan {
            version: if by_ids {
                highest
            } else {
                highest.min(TOPIC_IDS_FROM - 1)
            },
            session_id: self.id,
            session_epoch: self.epoch,
            wanted,
            forgotten,
        })
    }

    /// A session holds to one way of naming topics; the other way begins with a full request, which ends it.
    fn name_topics(&mut self, by_ids: bool) {
        self.by_ids = by_ids;
        self.epoch = FULL;
        self.places = Places::default();
        let places: Vec<_> = self
            .known
            .iter()
            .map(|(&h, w)| (h, self.place(w)))
            .collect();
        for (handle, place) in places {
            self.places.insert(&place, handle);
        }
    }

    /// What was asked of a partition that is answered.
    pub fn find(&self, topic: &TopicKey<'_>, partition: i32) -> Option<&Wanted> {
        self.known.get(&self.places.get(topic, partition)?)
    }

    /// The last request was answered without an error.
    pub fn answered(&mut self, session_id: i32) {
        if session_id == NO_SESSION {
            self.restart(NO_SESSION);
        } else if self.epoch == FULL {
            (self.id, self.epoch) = (session_id, 1);
        } else {
            self.epoch = self.epoch.checked_add(1).unwrap_or(1);
        }
    }

    /// The last request was answered with an error of the whole response.
    pub fn failed(&mut self, error_code: i16) -> Lost {
        let id = match error_code {
            FETCH_SESSION_ID_NOT_FOUND => NO_SESSION,
            _ => self.id,
        };
        self.restart(id);
        match error_code {
            FETCH_SESSION_ID_NOT_FOUND | INVALID_FETCH_SESSION_EPOCH => Lost::Reset,
            UNKNOWN_TOPIC_ID | INCONSISTENT_TOPIC_ID | FETCH_SESSION_TOPIC_ID_ERROR => {
                Lost::ResetAndRefresh
            }
            _ => Lost::No,
        }
    }

    fn restart(&mut self, id: i32) {
        (self.id, self.epoch) = (id, FULL);
    }
}
