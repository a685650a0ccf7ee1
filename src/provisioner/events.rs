//! What claims and PVs are told: events, as `kubectl describe` shows them.
//!
//! Nobody waits for an event: they go through a bounded queue, and are sent one after the other,
//! those of one namespace in turn with those of others. What is said again is counted, not written
//! again. Events are news, not records: when the API server cannot be reached or the queue is full,
//! they are lost, and counted as such.
//!
//! `kube::runtime::events::Recorder` does not fit: it counts by reason and ignores the message, so a
//! second cause of a failure would never be shown. It also bounds what it remembers by age only,
//! makes names that are too long for objects with long names, and writes to `events.k8s.io`, where
//! the chart grants no permission.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Event, EventSource, ObjectReference};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use kube::api::{Patch, PatchParams, PostParams};
use kube::core::ObjectMeta;
use kube::{Api, Client};
use parking_lot::Mutex;
use serde_json::json;
use tokio::sync::mpsc::{self, Receiver, Sender};

use super::call;
use super::error::{Error, has_code};
use super::fair_queue::FairQueue;
use super::metrics::Metrics;

/// Events that wait at a time: those of some thousand claims.
const WAITING: usize = 8192;

/// Of these, those of one namespace.
const SHARE: usize = 2048;

/// What was said, and can be said again by counting: more is said anew.
const REMEMBERED: usize = 4096;

/// Longest message that the API server takes, in bytes.
const MESSAGE_MAX: usize = 1024;

/// How much of an object's name is in those of its events, in bytes.
const NAME_MAX: usize = 200;

/// Where events of objects without a namespace are.
const DEFAULT_NAMESPACE: &str = "default";

/// Whether all is well.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Tone {
    /// It is.
    Normal,
    /// Somebody may have to do something.
    Warning,
}

/// Something to be told.
#[derive(Clone, Debug)]
pub struct Note {
    /// Of what.
    pub of: ObjectReference,
    /// Whether all is well.
    pub tone: Tone,
    /// One word for programs.
    pub reason: &'static str,
    /// A sentence for people.
    pub message: String,
}

/// Takes notes.
#[derive(Clone)]
pub struct Events {
    notes: Sender<Note>,
    metrics: Arc<Metrics>,
    /// What was told once, by the object's uid and the reason: a hash of the message.
    once: Arc<Mutex<HashMap<(String, &'static str), u64>>>,
    hasher: RandomState,
}

/// Sends them.
pub struct Teller {
    notes: Receiver<Note>,
    waiting: FairQueue<Note>,
    metrics: Arc<Metrics>,
    client: Client,
    source: String,
    said: HashMap<Said, (String, i32)>,
}

/// What makes two notes the same one.
type Said = (Option<String>, Tone, &'static str, String);

/// A queue of notes, and who empties it.
pub fn events(client: Client, source: &str, metrics: Arc<Metrics>) -> (Events, Teller) {
    let (sender, notes) = mpsc::channel(WAITING);
    let teller = Teller {
        notes,
        waiting: FairQueue::default(),
        metrics: Arc::clone(&metrics),
        client,
        source: source.to_owned(),
        said: HashMap::new(),
    };
    (Events { notes: sender, metrics, once: Arc::default(), hasher: RandomState::new() }, teller)
}

impl Events {
    /// Has something told, some time. Does not block.
    pub fn tell(
        &self,
        of: ObjectReference,
        tone: Tone,
        reason: &'static str,
        message: impl Into<String>,
    ) {
        let mut message = message.into();
        message.truncate(message.floor_char_boundary(MESSAGE_MAX));
        if self.notes.try_send(Note { of, tone, reason, message }).is_err() {
            self.metrics.event_lost();
        }
    }

    /// The same for what stays so: told once, and again when the message is another one or after
    /// [`Self::say_again`]. Says whether it was told.
    pub fn tell_once(
        &self,
        of: ObjectReference,
        tone: Tone,
        reason: &'static str,
        message: &str,
    ) -> bool {
        let key = (of.uid.clone().unwrap_or_default(), reason);
        let said = self.hasher.hash_one(message);
        let before = self.once.lock().insert(key, said);
        let is_new = before != Some(said);
        if is_new {
            self.tell(of, tone, reason, message);
        }
        is_new
    }

    /// Has all that was told once told again when it is found again.
    pub fn say_again(&self) {
        self.once.lock().clear();
    }

    /// Has a failure told, without what only administrators of the server may know
    /// ([`Error::public`]), as long as it is the same failure once ([`Self::tell_once`]): whoever
    /// may change the object decides how often it is tried. Says whether it is news. Trouble of the
    /// API server always is, and is not told: an event would not reach it either.
    pub fn failed(&self, of: ObjectReference, reason: &'static str, error: &Error) -> bool {
        error.is_of_the_server() || self.tell_once(of, Tone::Warning, reason, &error.public())
    }
}

impl Teller {
    /// Sends notes until nobody takes any more.
    pub async fn run(mut self) {
        while let Some(note) = self.next().await {
            if let Err(error) = self.send(note).await {
                tracing::debug!(%error, "an event is lost");
            }
        }
    }

    /// The next note, or nothing when nobody takes any more.
    async fn next(&mut self) -> Option<Note> {
        if self.waiting.is_empty() {
            let note = self.notes.recv().await?;
            self.wait(note);
        }
        while let Ok(note) = self.notes.try_recv() {
            self.wait(note);
        }
        self.waiting.pop()
    }

    fn wait(&mut self, note: Note) {
        let group = note.of.namespace.clone().unwrap_or_default();
        if self.waiting.len() < WAITING && self.waiting.of(&group) < SHARE {
            self.waiting.push(&group, note);
        } else {
            self.metrics.event_lost();
        }
    }

    async fn send(&mut self, note: Note) -> super::error::Result<()> {
        let namespace = note.of.namespace.as_deref().unwrap_or(DEFAULT_NAMESPACE);
        let api = Api::<Event>::namespaced(self.client.clone(), namespace);
        let key = (note.of.uid.clone(), note.tone, note.reason, note.message.clone());
        if let Some((name, count)) = self.said.get_mut(&key) {
            *count = count.saturating_add(1);
            let patch = json!({ "count": count, "lastTimestamp": Time(Timestamp::now()) });
            let patch = Patch::Merge(&patch);
            match call("patch event", api.patch(name, &PatchParams::default(), &patch)).await {
                Ok(_) => return Ok(()),
                // It was too old, and is gone: said anew.
                Err(Error::Api { source, .. }) if has_code(&source, 404) => {}
                Err(error) => return Err(error),
            }
        }
        let event = self.event(&note, namespace);
        let name = event.metadata.name.clone().unwrap_or_default();
        call("create event", api.create(&PostParams::default(), &event)).await?;
        if self.said.len() >= REMEMBERED {
            self.said.clear();
        }
        self.said.insert(key, (name, 1));
        Ok(())
    }

    fn event(&self, note: &Note, namespace: &str) -> Event {
        let now = Timestamp::now();
        let of = note.of.name.as_deref().unwrap_or("unknown");
        // The name of an object may fill all the room that the name of its event has.
        let of = of[..of.floor_char_boundary(NAME_MAX)].trim_end_matches(['-', '.']);
        let tone = match note.tone {
            Tone::Normal => "Normal",
            Tone::Warning => "Warning",
        };
        Event {
            metadata: ObjectMeta {
                // Unique, because one second holds fewer nanoseconds than one program can say.
                name: Some(format!("{of}.{:x}", now.as_nanosecond())),
                namespace: Some(namespace.to_owned()),
                ..ObjectMeta::default()
            },
            involved_object: note.of.clone(),
            reason: Some(note.reason.to_owned()),
            message: Some(note.message.clone()),
            type_: Some(tone.to_owned()),
            count: Some(1),
            first_timestamp: Some(Time(now)),
            last_timestamp: Some(Time(now)),
            source: Some(EventSource { component: Some(self.source.clone()), host: None }),
            ..Event::default()
        }
    }
}

#[cfg(test)]
impl Teller {
    /// What waits to be sent: whether it is a warning, the reason, and the message.
    pub fn waiting(&mut self) -> Vec<Note> {
        std::iter::from_fn(|| self.notes.try_recv().ok()).collect()
    }
}

#[cfg(test)]
mod tests {
    use http::{Request, Response};
    use kube::client::Body;
    use tower_test::mock::pair;

    use super::*;

    #[tokio::test]
    async fn who_has_much_to_be_told_does_not_hold_up_others() {
        let (service, _server) = pair::<Request<Body>, Response<Body>>();
        let client = Client::new(service, "default");
        let (events, mut teller) = events(client, "example.org/berth", Arc::default());
        let of = |namespace: &str| ObjectReference {
            namespace: Some(namespace.into()),
            ..ObjectReference::default()
        };
        for _ in 0..3000 {
            events.tell(of("greedy"), Tone::Normal, "Provisioning", "a claim");
        }
        events.tell(of("modest"), Tone::Normal, "Provisioning", "a claim");
        let mut next = Vec::new();
        for _ in 0..3 {
            next.push(teller.next().await.unwrap().of.namespace.unwrap());
        }
        assert_eq!(next, ["greedy", "modest", "greedy"]);
        assert!(teller.waiting.len() < SHARE);
    }
}
