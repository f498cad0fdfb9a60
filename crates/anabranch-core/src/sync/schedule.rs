//! When to sync: a pure function of what asks for it and of what stands against it.
//!
//! [`decide`] is the function. [`Scheduler`] keeps what it needs to know between two questions: which triggers have
//! come, the conditions that the application reported, and until when the server is left alone.

mod conditions;
mod scheduler;
#[cfg(test)]
mod table;

use std::time::Duration;

use serde::Serialize;

use crate::environment::UnixMillis;

pub use conditions::{Budget, Conditions, Work};
pub use scheduler::Scheduler;

/// The longest time that a server's `Retry-After` is honoured, in milliseconds.
pub const MAX_RETRY_AFTER_MILLIS: i64 = 24 * 60 * 60 * 1_000;

/// What asks for a sync, most urgent first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Trigger {
    /// A person asked. It overrides every guardrail, but not a server that asked to be left alone.
    Manual,
    /// The network is back: at once, without waiting for the backoff.
    NetworkRegained,
    /// The server, or a push service, hinted that there is something new.
    Poke,
    /// Something was written here: once the writing has paused for a moment.
    LocalWrite,
    /// The wait after a failed attempt is over.
    Retry,
    /// The application has started: deferred, so that the start is not slowed down.
    Start,
    /// It was a while ago that replica and server last agreed.
    Interval,
}

impl Trigger {
    /// Every trigger, most urgent first.
    pub const ALL: [Self; 7] =
        [Self::Manual, Self::NetworkRegained, Self::Poke, Self::LocalWrite, Self::Retry, Self::Start, Self::Interval];
}

/// Why a sync waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Reason {
    /// The device has no network.
    Offline,
    /// The server does not accept this replica's token.
    AuthNeeded,
    /// The server asked to be left alone until a certain time (`Retry-After`).
    ServerAsked,
    /// The last attempt failed; the next one waits a little longer each time.
    Backoff,
    /// Many attempts in a row failed; there is a probe only now and then.
    CircuitOpen,
    /// The system's budget of bytes or time for background work is used up.
    Budget,
    /// The connection is metered, and there is much to transfer.
    Metered,
    /// The device saves its battery.
    BatterySaver,
    /// The application is in the background.
    Background,
    /// The application has just started.
    Starting,
    /// Something is still being written.
    Writing,
    /// There were many syncs within a short time.
    RateLimited,
    /// Nothing asks for a sync now; it looks for news from time to time.
    Resting,
}

impl Reason {
    /// Every reason.
    pub const ALL: [Self; 13] = [
        Self::Offline,
        Self::AuthNeeded,
        Self::ServerAsked,
        Self::Backoff,
        Self::CircuitOpen,
        Self::Budget,
        Self::Metered,
        Self::BatterySaver,
        Self::Background,
        Self::Starting,
        Self::Writing,
        Self::RateLimited,
        Self::Resting,
    ];

    /// The reason in words, for a person.
    #[must_use]
    pub const fn text(self) -> &'static str {
        match self {
            Self::Offline => "there is no network",
            Self::AuthNeeded => "the server asks for a new sign-in",
            Self::ServerAsked => "the server asked to be tried again later",
            Self::Backoff => "the last attempt failed",
            Self::CircuitOpen => "the server has not answered for a while; it is tried now and then",
            Self::Budget => "the system's budget for background work is used up",
            Self::Metered => "the connection is metered and there is much to transfer",
            Self::BatterySaver => "the device saves its battery",
            Self::Background => "the app is in the background and there is much to transfer",
            Self::Starting => "the app has just started",
            Self::Writing => "something is still being written",
            Self::RateLimited => "there were many syncs within a short time",
            Self::Resting => "nothing is to be done now",
        }
    }
}

/// What is to be done about a trigger.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Sync now.
    Run {
        /// Whether the connection stays open afterwards, to follow changes as they come.
        keep_open: bool,
    },
    /// Not now.
    Defer(Deferral),
}

/// Why a sync waits, and for how long.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Deferral {
    /// Until this time; `None` until the conditions change.
    pub until: Option<UnixMillis>,
    /// Why.
    pub because: Reason,
}

/// How eager a sync is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Schedule {
    /// How long after the start of the application it begins.
    pub start_delay: Duration,
    /// How long nothing must be written before what was written is pushed.
    pub debounce: Duration,
    /// The longest that writing without a pause puts off a push.
    pub max_debounce: Duration,
    /// While no connection is kept open, it looks for news after a random time between these two.
    pub interval: (Duration, Duration),
    /// What is small enough, in bytes, to be pushed over a metered connection, from the background, or while the
    /// device saves its battery.
    pub small_bytes: u64,
    /// Whether a metered connection is kept open to follow changes.
    pub live_on_metered: bool,
    /// Not more than this many sessions are opened …
    pub rate_burst: u32,
    /// … within this time, unless a person asks.
    pub rate_period: Duration,
}

impl Schedule {
    /// At once, and live: what [`Default`] gives. Guardrails apply once the application reports conditions.
    #[must_use]
    pub const fn live() -> Self {
        Self {
            start_delay: Duration::ZERO,
            debounce: Duration::ZERO,
            max_debounce: Duration::ZERO,
            interval: (Duration::from_secs(15 * 60), Duration::from_secs(30 * 60)),
            small_bytes: 64 << 10,
            live_on_metered: true,
            rate_burst: 60,
            rate_period: Duration::from_secs(60),
        }
    }

    /// For a device that runs on a battery: a few seconds after the start, writes gathered for a moment, and a
    /// metered connection is not kept open.
    #[must_use]
    pub const fn considerate() -> Self {
        Self {
            start_delay: Duration::from_secs(3),
            debounce: Duration::from_secs(1),
            max_debounce: Duration::from_secs(10),
            live_on_metered: false,
            rate_burst: 10,
            ..Self::live()
        }
    }
}

impl Default for Schedule {
    fn default() -> Self {
        Self::live()
    }
}

/// What, apart from the conditions, a decision depends on. Times are by the same clock as `now`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Situation {
    /// What there is to transfer.
    pub work: Work,
    /// When the trigger first came since it was last acted upon.
    pub asked_at: UnixMillis,
    /// When it last came: a local write may come again and again.
    pub asked_last_at: UnixMillis,
    /// When the next look for news is due.
    pub interval_at: Option<UnixMillis>,
    /// The next attempt after a failure.
    pub retry_at: Option<UnixMillis>,
    /// Whether so many attempts in a row failed that the circuit breaker is open.
    pub circuit_open: bool,
    /// The server asked to be left alone until then.
    pub server_asked_until: Option<UnixMillis>,
    /// The server refused the token.
    pub auth_needed: bool,
    /// The rate limit allows the next session at this time.
    pub rate_allows_at: UnixMillis,
}

/// Decides about one trigger.
#[must_use]
pub fn decide(
    now: UnixMillis,
    schedule: &Schedule,
    conditions: &Conditions,
    situation: &Situation,
    trigger: Trigger,
) -> Decision {
    let deferral = objection(now, schedule, conditions, situation, trigger);
    deferral.map_or_else(|| Decision::Run { keep_open: keeps_open(schedule, conditions) }, Decision::Defer)
}

/// Whether a connection is kept open to follow changes.
pub(super) const fn keeps_open(schedule: &Schedule, conditions: &Conditions) -> bool {
    !conditions.background && !conditions.battery_saver && (schedule.live_on_metered || !conditions.metered)
}

/// What stands against a trigger, the weightiest first.
fn objection(
    now: UnixMillis,
    schedule: &Schedule,
    conditions: &Conditions,
    situation: &Situation,
    trigger: Trigger,
) -> Option<Deferral> {
    let defer = |until, because| Some(Deferral { until, because });
    if let Some(until) = ahead(now, situation.server_asked_until, MAX_RETRY_AFTER_MILLIS) {
        return defer(Some(until), Reason::ServerAsked);
    }
    if trigger == Trigger::Manual {
        return None;
    }
    if situation.auth_needed {
        return defer(None, Reason::AuthNeeded);
    }
    if !conditions.online {
        return defer(None, Reason::Offline);
    }
    if trigger != Trigger::NetworkRegained
        && let Some(until) = ahead(now, situation.retry_at, MAX_RETRY_AFTER_MILLIS)
    {
        let because = if situation.circuit_open { Reason::CircuitOpen } else { Reason::Backoff };
        return defer(Some(until), because);
    }
    if let Some(because) = conditions.forbid(now, schedule, &situation.work, trigger) {
        return defer(None, because);
    }
    let (due, because) = match trigger {
        Trigger::Start => (after(situation.asked_at, schedule.start_delay), Reason::Starting),
        Trigger::LocalWrite => {
            let pause = after(situation.asked_last_at, schedule.debounce);
            (pause.min(after(situation.asked_at, schedule.max_debounce)), Reason::Writing)
        }
        Trigger::Interval => (situation.interval_at.unwrap_or(now), Reason::Resting),
        Trigger::Manual | Trigger::NetworkRegained | Trigger::Poke | Trigger::Retry => (now, Reason::Resting),
    };
    if due > now {
        return defer(Some(due), because);
    }
    if situation.rate_allows_at > now {
        return defer(Some(situation.rate_allows_at), Reason::RateLimited);
    }
    None
}

/// A time that is still to come. One that is too far away was set before the clock was set back: it is over.
fn ahead(now: UnixMillis, at: Option<UnixMillis>, most: i64) -> Option<UnixMillis> {
    at.filter(|at| *at > now && *at <= now.saturating_add(most))
}

fn after(at: UnixMillis, by: Duration) -> UnixMillis {
    at.saturating_add(millis(by))
}

fn millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}
