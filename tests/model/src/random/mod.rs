//! Random calls on several processes, each followed by the model, with the books checked on the way.
//!
//! ```text
//!  generate.rs  what to do next, from the state and a seed
//!  calls.rs     with which arguments
//!  game.rs      kernel and model side by side, one step at a time
//!  play.rs      a whole run: to its end, or to the first wrong answer
//!  shrink.rs    the shortest script that still goes wrong
//! ```
//!
//! A script is a list of [`Step`]s with everything in it, so that it can be played again without the generator, and by
//! others.

mod calls;
mod game;
mod generate;
mod play;
mod shrink;

pub use game::{Game, Plan};
pub use generate::Generator;
pub use play::{Failed, play, replay};
pub use shrink::shrink;

use ptshare_mm::Sharing;
use ptshare_mm::testing::Op;

/// One step of a script.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Step {
    /// Whose call it is. A step of a process that does not exist is skipped.
    pub pid: u32,
    /// The call.
    pub op: Op,
    /// The allocation in it that fails; 0 for none.
    pub fail_at: u64,
    /// So do all after that one.
    pub fail_all: bool,
    /// How a fork shares tables, if not as the machine is set up.
    pub sharing: Option<Sharing>,
}
