//! Watches that list everything anew from time to time.
//!
//! A watch goes on from where it was, also after its connection ended. An event that got lost on the way, or one that came after a newer one of its
//! object, would otherwise stay unknown until the object changes again: a run that nobody was told of would never begin.

use std::{fmt::Debug, pin::Pin, time::Duration};

use futures::{
    Stream, StreamExt,
    stream::{BoxStream, unfold},
};
use kube::{Api, Resource};
use kube_runtime::watcher;
use serde::de::DeserializeOwned;
use tokio::time::{Instant, timeout_at};

/// Watches a collection, and begins anew with a list when `resync` has passed since the last one was whole: one that takes long is not begun again
/// before its end.
pub(super) fn watched<K>(
    api: Api<K>,
    config: watcher::Config,
    resync: Duration,
) -> impl Stream<Item = watcher::Result<watcher::Event<K>>> + Send
where
    K: Resource + Clone + DeserializeOwned + Debug + Send + 'static,
{
    renewed(move || watcher(api.clone(), config.clone()).boxed(), resync)
}

fn renewed<'a, K: Send + 'a>(
    begin: impl Fn() -> BoxStream<'a, watcher::Result<watcher::Event<K>>> + Send + 'a,
    resync: Duration,
) -> impl Stream<Item = watcher::Result<watcher::Event<K>>> + Send + 'a {
    let first = (begin(), None::<Instant>);
    let begin = Pin::from(Box::new(begin));
    unfold((first, begin), move |((mut watch, mut until), begin)| async move {
        loop {
            let next = match until {
                Some(deadline) if deadline <= Instant::now() => None,
                Some(deadline) => timeout_at(deadline, watch.next()).await.ok(),
                None => Some(watch.next().await),
            };
            let Some(event) = next else {
                (watch, until) = (begin(), None);
                continue;
            };
            match &event {
                Some(Ok(watcher::Event::InitDone)) => until = Some(Instant::now() + resync),
                // It lists anew by itself.
                Some(Ok(watcher::Event::Init)) => until = None,
                _ => {}
            }
            return event.map(|event| (event, ((watch, until), begin)));
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::stream::{iter, pending};
    use std::sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    };
    use watcher::Event;

    /// The n-th watch lists `n`, after `slow`, and then says nothing.
    fn watch(begun: &Arc<AtomicU32>, slow: Duration) -> BoxStream<'static, watcher::Result<Event<u32>>> {
        let number = begun.fetch_add(1, Ordering::SeqCst);
        let late = futures::stream::once(async move {
            tokio::time::sleep(slow).await;
            Ok(Event::InitApply(number))
        });
        iter([Ok(Event::Init)]).chain(late).chain(iter([Ok(Event::InitDone)])).chain(pending()).boxed()
    }

    #[tokio::test]
    async fn it_begins_anew_and_never_within_a_list() {
        let begun = Arc::new(AtomicU32::new(0));
        let (counter, start) = (Arc::clone(&begun), Instant::now());
        // The list takes longer than the time after which it is to be made again.
        let (slow, resync) = (Duration::from_millis(60), Duration::from_millis(20));
        let events = renewed(move || watch(&counter, slow), resync);
        let events: Vec<_> = events.take(6).map(|event| event.expect("an event")).collect().await;
        let applied = events.iter().filter_map(|event| if let Event::InitApply(number) = event { Some(*number) } else { None });
        assert_eq!(applied.collect::<Vec<_>>(), [0, 1]);
        assert!(start.elapsed() >= slow + resync + slow);
        assert_eq!(begun.load(Ordering::SeqCst), 2);
    }
}
