//! Events (events.k8s.io/v1): transitions, in words that a person understands.
//!
//! They are published beside the reconciliations, in the order in which they were told, as client-go's recorder does: the status says the same, and no run
//! waits for an event.

use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};

use k8s_openapi::api::core::v1::ObjectReference;
use kube::{
    Client, Resource,
    runtime::events::{Event, EventType, Recorder, Reporter},
};
use tokio::{
    sync::mpsc::{Receiver, Sender, channel, error::TrySendError},
    time::{Instant, timeout_at},
};

use crate::{names, plan::Note};

/// Most bytes of an event's text that the API server takes.
const NOTE_LIMIT: usize = 1000;
/// How many events may wait to be published; one more is left out.
const WAITING: usize = 4096;
/// How long those that wait have at the end of the process.
const LAST: Duration = Duration::from_secs(5);

/// Where events are told.
pub(crate) struct Events(Mutex<Option<Sender<Told>>>);

/// Who publishes what is told.
pub(crate) struct Publisher {
    recorder: Recorder,
    told: Receiver<Told>,
}

struct Told {
    event: Event,
    about: ObjectReference,
}

impl Events {
    pub(crate) fn new(client: Client) -> (Self, Publisher) {
        let instance = std::env::var("POD_NAME").ok();
        let recorder = Recorder::new(client, Reporter { controller: names::MANAGER.to_owned(), instance });
        let (sender, told) = channel(WAITING);
        (Self(Mutex::new(Some(sender))), Publisher { recorder, told })
    }

    /// Has `notes` about `object` published. One that cannot be is logged.
    pub(crate) fn publish<K: Resource<DynamicType = ()>>(&self, object: &K, notes: &[Note]) {
        for note in notes {
            tracing::info!(reason = note.reason, warning = note.warning, "{}", note.text);
            let event = Event {
                type_: if note.warning { EventType::Warning } else { EventType::Normal },
                reason: note.reason.clone(),
                note: Some(cut(&note.text)),
                // Part of the identity by which the recorder counts repetitions.
                action: note.subject.clone(),
                secondary: None,
            };
            let told = Told { event, about: object.object_ref(&()) };
            let sender = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            match sender.as_ref().map_or(Err(TrySendError::Closed(())), |sender| sender.try_reserve()) {
                Ok(place) => place.send(told),
                Err(TrySendError::Full(())) => {
                    tracing::warn!(reason = note.reason, "event is left out: {WAITING} others wait to be published");
                }
                // Whoever leads next says what it does.
                Err(TrySendError::Closed(())) => tracing::info!(reason = note.reason, "event is left out: the process ends"),
            }
        }
    }

    /// Nothing is told any more.
    pub(crate) fn close(&self) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take();
    }
}

impl Publisher {
    /// Publishes until [`Events::close`], and then what waits, for some seconds.
    pub(crate) async fn run(mut self) {
        let mut until = None;
        while let Some(Told { event, about }) = self.told.recv().await {
            let publish = self.recorder.publish(&event, &about);
            let published = if self.told.is_closed() {
                let until = *until.get_or_insert_with(|| Instant::now() + LAST);
                let Ok(published) = timeout_at(until, publish).await else {
                    tracing::warn!(
                        "{} events are left out: the API server did not take them within {} s",
                        self.told.len() + 1,
                        LAST.as_secs()
                    );
                    return;
                };
                published
            } else {
                publish.await
            };
            if let Err(error) = published {
                tracing::warn!(%error, "event could not be published");
            }
        }
    }
}

fn cut(text: &str) -> String {
    if text.len() <= NOTE_LIMIT {
        return text.to_owned();
    }
    let end = (0..=NOTE_LIMIT - 3).rev().find(|end| text.is_char_boundary(*end)).unwrap_or_default();
    format!("{}…", &text[..end])
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{
        convert::Infallible,
        sync::{Arc, Mutex as StdMutex},
    };

    use http::{Request, Response};
    use k8s_openapi::{api::core::v1::ConfigMap, apimachinery::pkg::apis::meta::v1::ObjectMeta};
    use kube::client::Body;

    #[test]
    fn long_texts_are_cut_between_characters() {
        assert_eq!(cut("short"), "short");
        let long = cut(&"aä".repeat(1000));
        assert!(long.len() <= NOTE_LIMIT && long.ends_with('…'));
    }

    #[tokio::test]
    async fn what_waits_at_the_end_is_published_in_order() {
        let seen = Arc::new(StdMutex::new(Vec::new()));
        let server = Arc::clone(&seen);
        let service = tower::service_fn(move |request: Request<Body>| {
            let seen = Arc::clone(&server);
            async move {
                let sent = request.into_body().collect_bytes().await.expect("a body");
                let event: serde_json::Value = serde_json::from_slice(&sent).expect("an event");
                seen.lock().expect("no panic").push(event["reason"].as_str().unwrap_or_default().to_owned());
                Ok::<_, Infallible>(Response::new(Body::from(sent.to_vec())))
            }
        });
        let (events, publisher) = Events::new(Client::new(service, "ns"));
        let about = ConfigMap { metadata: ObjectMeta { name: Some("it".to_owned()), ..ObjectMeta::default() }, ..ConfigMap::default() };
        events.publish(&about, &[Note::normal("First", "a", "one"), Note::warning("Second", "a", "two")]);
        events.close();
        publisher.run().await;
        assert_eq!(*seen.lock().expect("no panic"), ["First", "Second"]);
    }
}
