//! Events (events.k8s.io/v1): transitions, in words that a person understands.

use kube::{
    Client, Resource,
    runtime::events::{Event, EventType, Recorder, Reporter},
};

use crate::{names, plan::Note};

/// Most bytes of an event's text that the API server takes.
const NOTE_LIMIT: usize = 1000;

/// Publishes events.
pub(crate) struct Events {
    recorder: Recorder,
}

impl Events {
    pub(crate) fn new(client: Client) -> Self {
        let instance = std::env::var("POD_NAME").ok();
        Self { recorder: Recorder::new(client, Reporter { controller: names::MANAGER.to_owned(), instance }) }
    }

    /// Publishes `notes` about `object`. An event that cannot be published is logged: the status says the same.
    pub(crate) async fn publish<K: Resource<DynamicType = ()>>(&self, object: &K, notes: &[Note]) {
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
            if let Err(error) = self.recorder.publish(&event, &object.object_ref(&())).await {
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

    #[test]
    fn long_texts_are_cut_between_characters() {
        assert_eq!(cut("short"), "short");
        let long = cut(&"aä".repeat(1000));
        assert!(long.len() <= NOTE_LIMIT && long.ends_with('…'));
    }
}
