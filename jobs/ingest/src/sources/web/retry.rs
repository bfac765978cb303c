//! When a request is sent again: exponential backoff with full jitter, or the time that the source asks for.

use std::time::Duration;

/// Longest wait of our own choice.
const MOST_BACKOFF: Duration = Duration::from_secs(30);

/// The tries of one request.
pub struct Tries {
    left: u32,
    made: u32,
    backoff: Duration,
    max_retry_after: Duration,
}

impl Tries {
    /// One try and `retries` further ones; the first wait is at most `backoff`.
    pub fn new(retries: u32, backoff: Duration, max_retry_after: Duration) -> Self {
        Self { left: retries, made: 1, backoff, max_retry_after }
    }

    /// Number of tries made.
    pub fn made(&self) -> u32 {
        self.made
    }

    /// `message` with the number of tries made.
    pub fn spent(&self, message: &str) -> String {
        format!("{message} ({} tries)", self.made)
    }

    /// How long to wait before the next try; none: there is no further one.
    pub fn next_delay(&mut self, retry_after: Option<Duration>) -> Option<Duration> {
        if self.left == 0 {
            return None;
        }
        self.left -= 1;
        let longest = self.backoff.saturating_mul(1 << (self.made - 1).min(16)).min(MOST_BACKOFF);
        self.made += 1;
        Some(match retry_after {
            Some(asked) => asked.min(self.max_retry_after),
            None => longest.mul_f64(rand::random::<f64>()),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_are_capped_and_end() {
        let second = Duration::from_secs(1);
        let mut tries = Tries::new(9, second, second * 60);
        for longest in [1, 2, 4, 8, 16, 30, 30, 30] {
            assert!(tries.next_delay(None).unwrap() <= second * longest);
        }
        assert_eq!(tries.next_delay(Some(second * 3600)), Some(second * 60));
        assert_eq!((tries.next_delay(None), tries.made()), (None, 10));
    }

    #[test]
    fn jitter_spreads_the_waits() {
        let delays: Vec<Duration> =
            (0..20).filter_map(|_| Tries::new(1, Duration::from_secs(1), Duration::ZERO).next_delay(None)).collect();
        assert!(delays.iter().any(|delay| *delay != delays[0]), "{delays:?}");
    }
}
