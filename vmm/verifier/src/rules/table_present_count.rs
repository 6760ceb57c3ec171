//! `table-present-count`. Of a root only the user half counts.

use ptshare_wire::FrameKind;

use crate::census::Mm;
use crate::frames::Frames;
use crate::graph::Table;
use crate::report::{Finding, RuleInfo, Sink};

pub(crate) const RULE: RuleInfo = RuleInfo {
    name: "table-present-count",
    statement: "a table's metadata counts its entries that are not zero",
    reads: "aux of every table; its entries that are not zero",
    why: "a table goes when its count reaches 0: too low frees a table in use, too high keeps an empty one for ever",
    design: &[],
    catalogue: &[],
};

/// Judges one table.
pub(crate) fn table(table: &Table, frames: &Frames, mms: &[Mm], sink: &mut Sink) {
    let Some(frame) = frames.get(table.pfn).filter(|f| f.kind() == Some(FrameKind::Table)) else { return };
    let entries = u32::from(table.nonzero);
    if table.walked && frame.aux != entries {
        sink.report(&RULE, || {
            let expected = format!("aux = {entries}, the entries that are not zero");
            let finding = Finding::new(&RULE, expected, format!("aux = {}", frame.aux))
                .va(table.base)
                .level(table.level as u8)
                .frame(table.pfn);
            match mms.get(table.mm as usize) {
                Some(mm) => finding.mm(mm.id),
                None => finding,
            }
        });
    }
}
