//! Flush batches.
use crate::Env;
use ptshare_wire::MmRec;
/// batch
#[must_use]
pub struct FlushBatch<'a, E: Env> {
    env: &'a E,
    mm: Option<&'a MmRec>,
}
impl<'a, E: Env> FlushBatch<'a, E> {
    /// A batch for changes to one mm.
    pub fn new(env: &'a E, mm: &'a MmRec) -> Self {
        FlushBatch { env, mm: Some(mm) }
    }
    /// A batch for changes to an object that any number of mms map (truncate).
    pub fn everyone(env: &'a E) -> Self {
        FlushBatch { env, mm: None }
    }
    /// Flushes, then drops the references.
    pub fn finish(self) {
        let _ = (self.env, self.mm);
    }
}
