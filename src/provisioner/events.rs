//! Events of claims and PVs, as `kubectl describe` shows them.
//!
//! Recording an event does not block: events go through a bounded queue, and a task sends one after
//! the other, the namespaces in turn. A repeated event increases a count and is not written again.
//! Events are not reliable: when the API server cannot be reached or the queue is full, they are
//! lost, and counted.
//!
//! `kube::runtime::events::Recorder` does not fit: it counts by reason and ignores the message, so
//! that a second cause of a failure would never be shown. It also bounds what it remembers by age
//! only, makes names that are too long for objects with long names, and writes to `events.k8s.io`,
//! where the chart grants no permission.

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

use super::call::call;
use super::error::{Error, has_code};
use super::fair_queue::FairQueue;
use super::metrics::ProvisionerMetrics;

/// Largest number of events that wait to be sent: those of some thousand claims.
const WAITING: usize = 8192;

/// Largest number of these that are of one namespace.
const SHARE: usize = 2048;

/// Number of sent events that are remembered, to be counted when they are repeated.
const REMEMBERED: usize = 4096;

/// Longest message that the API server accepts, in bytes.
const MESSAGE_MAX: usize = 1024;

/// How many bytes of an object's name are part of the names of its events.
const NAME_MAX: usize = 200;

/// The namespace of events of objects without a namespace.
const DEFAULT_NAMESPACE: &str = "default";

/// The type of an event.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum EventType {
    /// Nothing has to be done.
    Normal,
    /// The reader may have to do something.
    Warning,
}

/// An event that waits to be sent.
#[derive(Clone, Debug)]
pub struct PendingEvent {
    /// The claim or PV.
    pub object: ObjectReference,
    /// Its type.
    pub event_type: EventType,
    /// The reason, one word for programs.
    pub reason: &'static str,
    /// The message, a sentence for people.
    pub message: String,
}

/// Takes events.
#[derive(Clone)]
pub struct EventRecorder {
    queue: Sender<PendingEvent>,
    metrics: Arc<ProvisionerMetrics>,
    /// What [`Self::record_once`] recorded: a hash of the message, by the object's uid and the
    /// reason.
    once: Arc<Mutex<HashMap<(String, &'static str), u64>>>,
    hasher: RandomState,
}

/// Sends events.
pub struct EventSender {
    queue: Receiver<PendingEvent>,
    waiting: FairQueue<PendingEvent>,
    metrics: Arc<ProvisionerMetrics>,
    client: Client,
    source: String,
    /// Names and counts of the events that were sent.
    sent: HashMap<EventKey, (String, i32)>,
}

/// What makes two events the same one: uid of the object, type, reason, message.
type EventKey = (Option<String>, EventType, &'static str, String);

/// Returns the two ends of a queue of events. `source` is the component that the events name.
pub fn event_queue(
    client: Client,
    source: &str,
    metrics: Arc<ProvisionerMetrics>,
) -> (EventRecorder, EventSender) {
    let (queue, receiver) = mpsc::channel(WAITING);
    let sender = EventSender {
        queue: receiver,
        waiting: FairQueue::default(),
        metrics: Arc::clone(&metrics),
        client,
        source: source.to_owned(),
        sent: HashMap::new(),
    };
    (EventRecorder { queue, metrics, once: Arc::default(), hasher: RandomState::new() }, sender)
}

impl EventRecorder {
    /// Records an event, which is sent later. Does not block.
    pub fn record(
        &self,
        object: ObjectReference,
        event_type: EventType,
        reason: &'static str,
        message: impl Into<String>,
    ) {
        let mut message = message.into();
        message.truncate(message.floor_char_boundary(MESSAGE_MAX));
        if self.queue.try_send(PendingEvent { object, event_type, reason, message }).is_err() {
            self.metrics.event_lost();
        }
    }

    /// Records an event about a condition that lasts: once, and again when the message is another
    /// one or after [`Self::record_again`]. Returns whether it was recorded.
    pub fn record_once(
        &self,
        object: ObjectReference,
        event_type: EventType,
        reason: &'static str,
        message: &str,
    ) -> bool {
        let key = (object.uid.clone().unwrap_or_default(), reason);
        let hash = self.hasher.hash_one(message);
        let before = self.once.lock().insert(key, hash);
        let is_new = before != Some(hash);
        if is_new {
            self.record(object, event_type, reason, message);
        }
        is_new
    }

    /// Lets [`Self::record_once`] record every event again.
    pub fn record_again(&self) {
        self.once.lock().clear();
    }

    /// Records a failure, without what only administrators of the server may know
    /// ([`Error::public`]). A failure that repeats is recorded once ([`Self::record_once`]),
    /// because the authors of objects decide how often it is retried. Returns whether the failure
    /// is new. A failure of the API server always counts as new, and is not recorded: the event
    /// would not reach the API server.
    pub fn record_failure(
        &self,
        object: ObjectReference,
        reason: &'static str,
        error: &Error,
    ) -> bool {
        error.is_server_failure()
            || self.record_once(object, EventType::Warning, reason, &error.public())
    }
}

impl EventSender {
    /// Sends events until all recorders are dropped.
    pub async fn run(mut self) {
        while let Some(event) = self.next().await {
            if let Err(error) = self.send(event).await {
                self.metrics.event_lost();
                tracing::debug!(%error, "an event is lost");
            }
        }
    }

    /// The next event; `None` when all recorders are dropped.
    async fn next(&mut self) -> Option<PendingEvent> {
        if self.waiting.is_empty() {
            let event = self.queue.recv().await?;
            self.wait(event);
        }
        while let Ok(event) = self.queue.try_recv() {
            self.wait(event);
        }
        self.waiting.pop()
    }

    fn wait(&mut self, event: PendingEvent) {
        let group = event.object.namespace.clone().unwrap_or_default();
        if self.waiting.len() < WAITING && self.waiting.len_of(&group) < SHARE {
            self.waiting.push(&group, event);
        } else {
            self.metrics.event_lost();
        }
    }

    async fn send(&mut self, event: PendingEvent) -> super::error::Result<()> {
        let namespace = event.object.namespace.as_deref().unwrap_or(DEFAULT_NAMESPACE);
        let api = Api::<Event>::namespaced(self.client.clone(), namespace);
        let key = (event.object.uid.clone(), event.event_type, event.reason, event.message.clone());
        if let Some((name, count)) = self.sent.get_mut(&key) {
            *count = count.saturating_add(1);
            let patch = json!({ "count": count, "lastTimestamp": Time(Timestamp::now()) });
            let patch = Patch::Merge(&patch);
            match call("patch event", api.patch(name, &PatchParams::default(), &patch)).await {
                Ok(_) => return Ok(()),
                // It was too old, and is gone: it is created again.
                Err(Error::Api { source, .. }) if has_code(&source, 404) => {}
                Err(error) => return Err(error),
            }
        }
        let object = self.object(&event, namespace);
        let name = object.metadata.name.clone().unwrap_or_default();
        call("create event", api.create(&PostParams::default(), &object)).await?;
        if self.sent.len() >= REMEMBERED {
            self.sent.clear();
        }
        self.sent.insert(key, (name, 1));
        Ok(())
    }

    fn object(&self, event: &PendingEvent, namespace: &str) -> Event {
        let now = Timestamp::now();
        let of = event.object.name.as_deref().unwrap_or("unknown");
        // The name of an object may be as long as that of its event may be.
        let of = of[..of.floor_char_boundary(NAME_MAX)].trim_end_matches(['-', '.']);
        let event_type = match event.event_type {
            EventType::Normal => "Normal",
            EventType::Warning => "Warning",
        };
        Event {
            metadata: ObjectMeta {
                // Unique: events are created one after the other, each takes longer than 1 ns.
                name: Some(format!("{of}.{:x}", now.as_nanosecond())),
                namespace: Some(namespace.to_owned()),
                ..ObjectMeta::default()
            },
            involved_object: event.object.clone(),
            reason: Some(event.reason.to_owned()),
            message: Some(event.message.clone()),
            type_: Some(event_type.to_owned()),
            count: Some(1),
            first_timestamp: Some(Time(now)),
            last_timestamp: Some(Time(now)),
            source: Some(EventSource { component: Some(self.source.clone()), host: None }),
            ..Event::default()
        }
    }
}

#[cfg(test)]
impl EventSender {
    /// The events that wait to be sent.
    pub fn waiting(&mut self) -> Vec<PendingEvent> {
        std::iter::from_fn(|| self.queue.try_recv().ok()).collect()
    }
}

#[cfg(test)]
mod tests {
    use http::{Request, Response};
    use kube::client::Body;
    use tower_test::mock::pair;

    use super::*;

    #[tokio::test]
    async fn a_namespace_with_many_events_does_not_delay_others() {
        let (service, _server) = pair::<Request<Body>, Response<Body>>();
        let client = Client::new(service, "default");
        let (events, mut sender) = event_queue(client, "example.org/berth", Arc::default());
        let of = |namespace: &str| ObjectReference {
            namespace: Some(namespace.into()),
            ..ObjectReference::default()
        };
        for _ in 0..3000 {
            events.record(of("greedy"), EventType::Normal, "Provisioning", "a claim");
        }
        events.record(of("modest"), EventType::Normal, "Provisioning", "a claim");
        let mut next = Vec::new();
        for _ in 0..3 {
            next.push(sender.next().await.unwrap().object.namespace.unwrap());
        }
        assert_eq!(next, ["greedy", "modest", "greedy"]);
        assert!(sender.waiting.len() < SHARE);
    }

    #[tokio::test]
    async fn an_event_that_cannot_be_sent_is_counted() {
        let (service, server) = pair::<Request<Body>, Response<Body>>();
        drop(server);
        let metrics = Arc::<ProvisionerMetrics>::default();
        let client = Client::new(service, "default");
        let (events, sender) = event_queue(client, "example.org/berth", Arc::clone(&metrics));
        events.record(ObjectReference::default(), EventType::Normal, "Provisioning", "a claim");
        drop(events);
        sender.run().await;
        assert_eq!(metrics.events_lost(), 1);
    }
}
