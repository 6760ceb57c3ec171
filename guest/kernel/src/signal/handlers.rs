//! Signal actions: shared by CLONE_SIGHAND, copied on the first change after a fork.

use super::types::{Action, DefaultAction, SIG_DFL, SIG_IGN, SIGKILL, SIGNALS, SIGSTOP, bit, default_action};
use alloc::sync::Arc;
use ptshare_abi::sys::general as raw;
use ptshare_sync::{Lock, Rank};

#[derive(Clone)]
struct Actions {
    table: [Action; SIGNALS as usize],
    /// Signals whose handler is SIG_IGN.
    ignored: u64,
    /// Signals with a handler.
    caught: u64,
}

/// The actions of a process, or of several under CLONE_SIGHAND.
pub struct SignalHandlers(Lock<Arc<Actions>>);

impl SignalHandlers {
    /// Everything default.
    pub fn new() -> SignalHandlers {
        let actions = Actions { table: [Action::default(); SIGNALS as usize], ignored: 0, caught: 0 };
        SignalHandlers(Lock::new(Rank::Registry, Arc::new(actions)))
    }

    /// For a forked child: the same actions, one copy until either side changes them.
    pub fn fork_copy(&self) -> SignalHandlers {
        SignalHandlers(Lock::new(Rank::Registry, self.0.lock().clone()))
    }

    /// For exec and CLONE_CLEAR_SIGHAND: handlers become default, what is ignored stays ignored.
    pub fn exec_copy(&self) -> SignalHandlers {
        let old = self.0.lock().clone();
        let fresh = SignalHandlers::new();
        if old.ignored != 0 {
            let mut actions = fresh.0.lock();
            let actions = Arc::make_mut(&mut actions);
            for sig in (1..=SIGNALS).filter(|&sig| old.ignored & bit(sig) != 0) {
                actions.table[(sig - 1) as usize].handler = SIG_IGN;
            }
            actions.ignored = old.ignored;
        }
        fresh
    }

    /// The action of a signal (1..=64).
    pub fn get(&self, sig: u32) -> Action {
        self.0.lock().table.get(sig.wrapping_sub(1) as usize).copied().unwrap_or_default()
    }

    /// Sets the action of a signal (1..=64); gives the one before.
    pub fn set(&self, sig: u32, action: Action) -> Action {
        let mut guard = self.0.lock();
        let actions = Arc::make_mut(&mut guard);
        let Some(slot) = actions.table.get_mut(sig.wrapping_sub(1) as usize) else {
            return Action::default();
        };
        let old = core::mem::replace(slot, action);
        let bit = bit(sig);
        actions.ignored &= !bit;
        actions.caught &= !bit;
        match action.handler {
            SIG_DFL => {}
            SIG_IGN => actions.ignored |= bit,
            _ => actions.caught |= bit,
        }
        old
    }

    /// Would the signal do nothing: ignored, or default and ignored by default?
    pub fn ignores(&self, sig: u32) -> bool {
        let actions = self.0.lock();
        let bit = bit(sig);
        actions.ignored & bit != 0
            || actions.caught & bit == 0 && default_action(sig) == DefaultAction::Ignore
    }

    /// Is the action the default one?
    pub fn is_default(&self, sig: u32) -> bool {
        let actions = self.0.lock();
        (actions.ignored | actions.caught) & bit(sig) == 0
    }

    /// Sets of ignored and of caught signals.
    pub fn sets(&self) -> (u64, u64) {
        let actions = self.0.lock();
        (actions.ignored, actions.caught)
    }

    /// Does the parent want no zombies: SIGCHLD ignored, or SA_NOCLDWAIT?
    pub fn reaps_children(&self) -> bool {
        let action = self.get(super::types::SIGCHLD);
        action.handler == SIG_IGN || action.has(raw::SA_NOCLDWAIT)
    }

    /// May the action of this signal be changed?
    pub fn is_changeable(sig: u32) -> bool {
        sig != SIGKILL && sig != SIGSTOP
    }
}

impl Default for SignalHandlers {
    fn default() -> Self {
        SignalHandlers::new()
    }
}
