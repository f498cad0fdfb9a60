//! The scheduler: what has been asked for, and what is known between two questions.

use std::collections::BTreeMap;

use super::conditions::{Conditions, Work};
use super::{Decision, Deferral, Reason, Schedule, Situation, Trigger, decide, keeps_open, millis};
use crate::environment::{Entropy, UnixMillis};
use crate::sync::backoff::MAX_BACKOFF_MILLIS;

/// Decides when one remote is synced with. It does nothing by itself: whoever drives it tells it what happens, asks
/// after each thing, and asks again at the time that a deferral names.
#[derive(Clone, Debug)]
pub struct Scheduler {
    schedule: Schedule,
    conditions: Conditions,
    /// Triggers that have come and not been acted upon: when first, and when last.
    wishes: BTreeMap<Trigger, (UnixMillis, UnixMillis)>,
    situation: Situation,
    /// The time at which the rate limit would be back at rest (the generic cell rate algorithm).
    rate_rests_at: UnixMillis,
    /// A person has asked for the session that is open, whatever the conditions are.
    insisted: bool,
    /// The time of the last event, by a clock that may be set back.
    last_now: UnixMillis,
}

impl Scheduler {
    /// A scheduler that nothing has asked yet.
    #[must_use]
    pub fn new(schedule: Schedule, conditions: Conditions) -> Self {
        Self {
            schedule,
            conditions,
            wishes: BTreeMap::new(),
            situation: Situation::default(),
            rate_rests_at: UnixMillis::MIN,
            insisted: false,
            last_now: UnixMillis::MIN,
        }
    }

    /// The conditions as they were last reported.
    #[must_use]
    pub const fn conditions(&self) -> &Conditions {
        &self.conditions
    }

    /// Whether a connection is kept open to follow changes.
    #[must_use]
    pub const fn keeps_open(&self) -> bool {
        keeps_open(&self.schedule, &self.conditions)
    }

    /// Whether local writes wait for a pause, even if a connection is open.
    #[must_use]
    pub const fn gathers_writes(&self) -> bool {
        !self.schedule.debounce.is_zero()
    }

    /// A trigger has come.
    pub fn ask(&mut self, now: UnixMillis, trigger: Trigger) {
        self.wishes.entry(trigger).and_modify(|wish| wish.1 = now).or_insert((now, now));
    }

    /// The device has changed. A network that is back is a trigger, and so is it that a connection may be kept open
    /// again, as when the application comes to the foreground.
    pub fn set_conditions(&mut self, now: UnixMillis, conditions: Conditions) {
        if conditions.online && !self.conditions.online {
            self.ask(now, Trigger::NetworkRegained);
        }
        let kept_open = self.keeps_open();
        self.insisted &= conditions == self.conditions;
        self.conditions = conditions;
        if self.keeps_open() && !kept_open {
            self.ask(now, Trigger::Start);
        }
    }

    /// When the time that the system grants will be over; `None` if it is, or there is no limit.
    #[must_use]
    pub fn budget_ends(&self, now: UnixMillis) -> Option<UnixMillis> {
        self.conditions.budget.map(|budget| budget.until).filter(|until| *until > now)
    }

    /// Bytes have been transferred: they count against the budget.
    pub fn spend(&mut self, bytes: u64) {
        if let Some(budget) = &mut self.conditions.budget {
            budget.bytes = budget.bytes.saturating_sub(bytes);
        }
    }

    /// An attempt failed; the next one may be made at `retry_at`, or by a person's wish unless the server itself
    /// asked for the wait.
    pub fn failed(
        &mut self,
        now: UnixMillis,
        retry_at: UnixMillis,
        server_asked_until: Option<UnixMillis>,
        open: bool,
    ) {
        self.follow_clock(now);
        self.situation.retry_at = Some(retry_at);
        self.situation.server_asked_until = server_asked_until;
        self.situation.circuit_open = open;
        self.ask(now, Trigger::Retry);
    }

    /// The server refuses the token, until another one is set.
    pub fn set_auth_needed(&mut self, needed: bool) {
        self.situation.auth_needed = needed;
    }

    /// An attempt succeeded.
    pub fn succeeded(&mut self) {
        self.situation.retry_at = None;
        self.situation.server_asked_until = None;
        self.situation.circuit_open = false;
        self.situation.auth_needed = false;
    }

    /// A run is over and its connection closed: the next look for news is due some time later.
    pub fn rest(&mut self, now: UnixMillis, entropy: &mut dyn Entropy) {
        let (least, most) = (millis(self.schedule.interval.0), millis(self.schedule.interval.1));
        let spread = most.saturating_sub(least).max(0).unsigned_abs();
        let jitter = i64::try_from(entropy.next_u64() % (spread.saturating_add(1))).unwrap_or(0);
        self.situation.interval_at = Some(now.saturating_add(least).saturating_add(jitter));
        self.ask(now, Trigger::Interval);
    }

    /// Whether something has been asked for.
    #[must_use]
    pub fn is_asked(&self) -> bool {
        !self.wishes.is_empty()
    }

    /// A connection is open: what was asked for happens, but for writes that may still be gathered.
    pub fn satisfied(&mut self) {
        self.insisted |= self.wishes.contains_key(&Trigger::Manual);
        self.wishes.retain(|trigger, _| *trigger == Trigger::LocalWrite);
    }

    /// Decides about everything that has been asked for. On [`Decision::Run`] all of it counts as acted upon.
    /// With nothing asked for, it is deferred until something is.
    pub fn decide(&mut self, now: UnixMillis, work: Work) -> Decision {
        self.follow_clock(now);
        let mut nearest: Option<Deferral> = None;
        for trigger in self.wishes.keys() {
            match self.decide_one(now, work, *trigger) {
                Decision::Run { keep_open } => {
                    self.insisted = *trigger == Trigger::Manual;
                    self.wishes.clear();
                    self.situation.interval_at = None;
                    self.count_session(now);
                    return Decision::Run { keep_open };
                }
                Decision::Defer(deferral) => {
                    let sooner = |than: &Deferral| {
                        deferral.until.unwrap_or(UnixMillis::MAX) < than.until.unwrap_or(UnixMillis::MAX)
                    };
                    if nearest.as_ref().is_none_or(sooner) {
                        nearest = Some(deferral);
                    }
                }
            }
        }
        Decision::Defer(nearest.unwrap_or(Deferral { until: None, because: Reason::Resting }))
    }

    /// Whether what was written may be pushed over a connection that is open already.
    pub fn may_push(&mut self, now: UnixMillis) -> Decision {
        self.follow_clock(now);
        if !self.wishes.contains_key(&Trigger::LocalWrite) {
            return Decision::Defer(Deferral { until: None, because: Reason::Resting });
        }
        let decision = self.decide_one(now, Work::default(), Trigger::LocalWrite);
        if matches!(decision, Decision::Run { .. }) {
            self.wishes.remove(&Trigger::LocalWrite);
        }
        decision
    }

    /// Why a connection that is open must be given up now, if it must: the device has changed. What a person has asked
    /// for goes on until it changes once more.
    #[must_use]
    pub fn must_stop(&self, now: UnixMillis, work: Work) -> Option<Deferral> {
        let because = match self.conditions.online {
            _ if self.insisted => None,
            false => Some(Reason::Offline),
            true => self.conditions.forbid(now, &self.schedule, &work, Trigger::LocalWrite),
        };
        because.map(|because| Deferral { until: None, because })
    }

    fn decide_one(&self, now: UnixMillis, work: Work, trigger: Trigger) -> Decision {
        let (asked_at, asked_last_at) = self.wishes.get(&trigger).copied().unwrap_or((now, now));
        let rate_allows_at = self.rate_rests_at.saturating_sub(millis(self.schedule.rate_period));
        let situation = Situation { work, asked_at, asked_last_at, rate_allows_at, ..self.situation };
        decide(now, &self.schedule, &self.conditions, &situation, trigger)
    }

    fn count_session(&mut self, now: UnixMillis) {
        let each = millis(self.schedule.rate_period) / i64::from(self.schedule.rate_burst.max(1));
        self.rate_rests_at = self.rate_rests_at.max(now).saturating_add(each);
    }

    /// What was asked for is not put off by a clock that is set back, be it by years.
    fn follow_clock(&mut self, now: UnixMillis) {
        let back = self.last_now.saturating_sub(now).max(0);
        self.last_now = now;
        let Situation { retry_at, server_asked_until, .. } = &mut self.situation;
        let asked = server_asked_until.is_some();
        for at in [&mut *retry_at, server_asked_until].into_iter().flatten() {
            *at = at.saturating_sub(back);
        }
        // It may have been set back before a restart, when nobody could see by how much.
        let longest = now.saturating_add(MAX_BACKOFF_MILLIS);
        *retry_at = retry_at.map(|at| if asked { at } else { at.min(longest) });
        for (first, last) in self.wishes.values_mut() {
            *first = now.min(*first);
            *last = now.min(*last);
        }
        let longest = now.saturating_add(millis(self.schedule.interval.1));
        self.situation.interval_at = self.situation.interval_at.map(|at| at.min(longest));
        self.rate_rests_at = self.rate_rests_at.min(now.saturating_add(millis(self.schedule.rate_period) * 2));
    }
}
