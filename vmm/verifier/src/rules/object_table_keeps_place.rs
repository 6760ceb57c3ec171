//! `object-table-keeps-place`.

use crate::graph::{At, Table};
use crate::report::{Finding, RuleInfo, Sink};
use crate::spaces::Clip;

pub(crate) const RULE: RuleInfo = RuleInfo {
    name: "object-table-keeps-place",
    statement: "an object's table names the object and the first page that the VMA over it maps there",
    reads: "object and page in the metadata of each object's table; object and offset of the VMA over it",
    why: "the next mapping of that part finds the table by these words: wrong ones hand a process a table of \
          another file, or of another part",
    design: &[3],
    catalogue: &[31],
};

/// An entry points to an object's `table`, under the VMA `over` its span; `key`: object and page in the metadata.
pub(crate) fn place(at: At, word: u64, table: &Table, over: &Clip, key: Option<(u64, u64)>, sink: &mut Sink) {
    if key == Some((over.object, over.pgoff)) {
        return;
    }
    let text = |(object, page)| format!("page {page:#x} of object {object}");
    sink.report(&RULE, || {
        let expected = format!("{} in the metadata, as in the VMA", text((over.object, over.pgoff)));
        Finding::new(&RULE, expected, key.map_or("no metadata".into(), text))
            .mm(at.mm)
            .va(at.va)
            .level(at.level as u8)
            .entry(word)
            .frame(table.pfn)
    });
}
