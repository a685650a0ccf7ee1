//! Whether the API server can be reached, and what the log says of that: a line when it goes away,
//! one now and then while it stays away, one when it is back, however many calls fail meanwhile.

use std::time::Duration;

use kube::Error as ApiError;
use kube::runtime::utils::Backoff;
use kube::runtime::watcher;
use parking_lot::Mutex;
use tokio::time::Instant;

/// Between two lines while it stays away.
const AGAIN: Duration = Duration::from_secs(300);

/// The first pause of a watch that failed; each is twice the one before.
const FIRST_PAUSE: Duration = Duration::from_millis(800);

/// The longest one.
const LONGEST_PAUSE: Duration = Duration::from_secs(10);

/// After a time without a failure, the next pause is the first again.
const CALM: Duration = Duration::from_secs(120);

/// What is known of an API server. All who ask it share this.
pub struct Reach {
    /// Its URL.
    server: String,
    away: Mutex<Option<Away>>,
}

/// Since when it is away.
#[derive(Clone, Copy)]
struct Away {
    since: Instant,
    told: Instant,
}

/// What there is to say.
#[derive(PartialEq, Eq, Debug)]
enum News {
    /// It went away.
    Gone,
    /// It is still away, after this time.
    StillGone(Duration),
    /// It is back, after this time.
    Back(Duration),
}

impl Reach {
    /// A server at this URL, which is taken to be there.
    pub fn new(server: impl Into<String>) -> Self {
        Self { server: server.into(), away: Mutex::default() }
    }

    /// Notes that it could not be asked.
    pub fn failed(&self, error: &str) {
        let server = &self.server;
        match self.failed_at(Instant::now()) {
            Some(News::StillGone(time)) => {
                let seconds = time.as_secs();
                tracing::warn!(server, error, seconds, "the API server is still away");
            }
            Some(_) => tracing::warn!(
                server,
                error,
                "the API server of the cluster is away: no claim gets a volume until it answers \
                 again, and volumes are served as before"
            ),
            None => tracing::debug!(server, error, "the API server is away"),
        }
    }

    /// Notes that it answered.
    pub fn answered(&self) {
        if let Some(News::Back(time)) = self.answered_at(Instant::now()) {
            let (server, seconds) = (&self.server, time.as_secs());
            tracing::info!(server, seconds, "the API server answers again");
        }
    }

    fn failed_at(&self, now: Instant) -> Option<News> {
        let mut away = self.away.lock();
        let Some(known) = &mut *away else {
            *away = Some(Away { since: now, told: now });
            return Some(News::Gone);
        };
        if now - known.told < AGAIN {
            return None;
        }
        known.told = now;
        Some(News::StillGone(now - known.since))
    }

    fn answered_at(&self, now: Instant) -> Option<News> {
        let away = self.away.lock().take()?;
        Some(News::Back(now - away.since))
    }
}

/// Pauses that become longer until a watch has gone well for a while.
///
/// A watch says that it begins before it has asked anybody, and each such event resets the backoff
/// of its stream: those of kube would stay at their first pause for ever.
#[derive(Default)]
pub struct Pauses {
    last: Option<(Instant, Duration)>,
}

impl Iterator for Pauses {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        let now = Instant::now();
        let pause = match self.last {
            Some((at, last)) if now - at < CALM => (last * 2).min(LONGEST_PAUSE),
            _ => FIRST_PAUSE,
        };
        self.last = Some((now, pause));
        Some(pause)
    }
}

impl Backoff for Pauses {
    fn reset(&mut self) {}
}

/// Whether a watch failed because the API server is away, and not because of what it answered.
pub fn is_away(error: &watcher::Error) -> bool {
    match error {
        watcher::Error::InitialListFailed(error)
        | watcher::Error::WatchStartFailed(error)
        | watcher::Error::WatchFailed(error) => is_of_the_server(error),
        watcher::Error::WatchError(_) | watcher::Error::NoResourceVersion => false,
    }
}

/// Whether the API server could not be asked, or is in trouble itself.
pub fn is_of_the_server(error: &ApiError) -> bool {
    match error {
        ApiError::Api(status) => status.code >= 500 || status.code == 429,
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_outage_is_told_when_it_begins_now_and_then_and_when_it_ends() {
        let (reach, start) = (Reach::new("https://cluster"), Instant::now());
        let after = |seconds| start + Duration::from_secs(seconds);
        assert_eq!(reach.answered_at(start), None);
        assert_eq!(reach.failed_at(start), Some(News::Gone));
        for second in 1..300 {
            assert_eq!(reach.failed_at(after(second)), None);
        }
        let time = Duration::from_secs;
        assert_eq!(reach.failed_at(after(301)), Some(News::StillGone(time(301))));
        assert_eq!(reach.failed_at(after(302)), None);
        assert_eq!(reach.answered_at(after(310)), Some(News::Back(time(310))));
        assert_eq!(reach.answered_at(after(311)), None);
        assert_eq!(reach.failed_at(after(312)), Some(News::Gone));
    }

    #[test]
    fn pauses_grow_whatever_a_watch_says_between_two_failures() {
        let mut pauses = Pauses::default();
        assert_eq!(pauses.next(), Some(FIRST_PAUSE));
        for _ in 0..10 {
            pauses.reset();
            pauses.next().unwrap();
        }
        assert_eq!(pauses.next(), Some(LONGEST_PAUSE));
        pauses.last = Instant::now().checked_sub(CALM).map(|at| (at, LONGEST_PAUSE));
        assert_eq!(pauses.next(), Some(FIRST_PAUSE));
    }
}
