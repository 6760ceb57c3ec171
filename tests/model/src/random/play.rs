//! A whole run.

use super::{Game, Generator, Plan, Step};
use core::fmt;
use core::mem::ManuallyDrop;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, Once};

/// Steps that a message shows.
const SHOWN: usize = 12;
/// Name of the threads that play.
const THREAD: &str = "play";

/// A run that went wrong.
#[derive(Clone, Debug)]
pub struct Failed {
    /// What it was.
    pub plan: Plan,
    /// What was found.
    pub message: String,
    /// Everything up to and with the step at which it was found.
    pub script: Vec<Step>,
}

impl fmt::Display for Failed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.message)?;
        writeln!(f, "seed {} step {} of {:?}", self.plan.seed, self.script.len(), self.plan)?;
        let first = self.script.len().saturating_sub(SHOWN);
        for (n, step) in self.script.iter().enumerate().skip(first) {
            writeln!(f, "  {n}: {step:x?}")?;
        }
        Ok(())
    }
}

/// Plays a random run to its end.
///
/// # Errors
/// The first thing that went wrong.
pub fn play(plan: Plan) -> Result<(), Box<Failed>> {
    let script = Arc::new(Mutex::new(Vec::new()));
    let record = script.clone();
    let outcome = on_a_fresh_thread(move || {
        // What a panic leaves cannot be dropped in order.
        let mut game = ManuallyDrop::new(Game::new(plan));
        let mut generator = Generator::new(plan.seed, plan.failures);
        for _ in 0..plan.steps {
            let step = generator.step(&game);
            record.lock().expect("only one thread").push(step.clone());
            game.step(&step)?;
        }
        ManuallyDrop::into_inner(game).finish()
    });
    let script = script.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).clone();
    outcome.map_err(|message| Box::new(Failed { plan, message, script }))
}

/// Plays a script, whose steps need not be those of `plan`.
///
/// # Errors
/// As [`play`], with the script up to where it went wrong.
pub fn replay(plan: Plan, script: &[Step]) -> Result<(), Box<Failed>> {
    let steps = script.to_vec();
    let done = Arc::new(Mutex::new(0));
    let counter = done.clone();
    let outcome = on_a_fresh_thread(move || {
        let mut game = ManuallyDrop::new(Game::new(plan));
        for step in &steps {
            *counter.lock().expect("only one thread") += 1;
            game.step(step)?;
        }
        ManuallyDrop::into_inner(game).finish()
    });
    let done = *done.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    outcome.map_err(|message| Box::new(Failed { plan, message, script: script[..done].to_vec() }))
}

/// Panics on these threads are answers: nothing is printed when they happen.
fn keep_quiet() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            if std::thread::current().name() != Some(THREAD) {
                before(info);
            }
        }));
    });
}

/// What `f` says, or with what it panics. Locks that a panic leaves held are noted by thread, so each run gets its own.
fn on_a_fresh_thread(f: impl FnOnce() -> Result<(), String> + Send + 'static) -> Result<(), String> {
    keep_quiet();
    let thread = std::thread::Builder::new().name(THREAD.into());
    let caught = thread.spawn(|| catch_unwind(AssertUnwindSafe(f))).expect("a thread").join();
    match caught {
        Ok(Ok(result)) => result,
        Ok(Err(panic)) | Err(panic) => {
            let text = panic.downcast_ref::<String>().cloned();
            Err(text.or_else(|| panic.downcast_ref::<&str>().map(ToString::to_string)).unwrap_or_default())
        }
    }
}
