//! Where the guest spends its time: samples of RIP, by kernel function.
//!
//! On a KVM that interprets CPL 0 this is the quickest way to a hot kernel path; on any KVM the share of user mode says
//! how much of a run is the kernel's.

use crate::symbols::Symbols;
use std::collections::HashMap;
use std::fmt::Write;
use std::time::Duration;

/// Between two samples.
pub const PERIOD: Duration = Duration::from_millis(2);
/// Functions that the table names.
const SHOWN_MAX: usize = 40;

/// Samples so far.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Samples {
    /// In user mode.
    pub user: u64,
    /// In the kernel, by function.
    pub kernel: HashMap<String, u64>,
}

impl Samples {
    /// Counts a CPU that was found at `rip`.
    pub(crate) fn take(&mut self, symbols: &Symbols, rip: u64) {
        if rip >> 63 == 0 {
            self.user += 1;
            return;
        }
        let name = symbols.find(rip).map_or("?", |(name, _)| name);
        match self.kernel.get_mut(name) {
            Some(count) => *count += 1,
            None => {
                self.kernel.insert(name.to_owned(), 1);
            }
        }
    }

    /// A table, most frequent first.
    pub fn table(&self) -> String {
        let kernel: u64 = self.kernel.values().sum();
        let all = (self.user + kernel).max(1) as f64;
        let percent = |n: u64| 100.0 * n as f64 / all;
        let mut rows: Vec<(&String, &u64)> = self.kernel.iter().collect();
        rows.sort_by_key(|&(name, count)| (std::cmp::Reverse(*count), name));
        let mut text = format!(
            "profile: {} samples, {:.1}% in user mode, {:.1}% in the kernel\n",
            self.user + kernel,
            percent(self.user),
            percent(kernel)
        );
        for (name, count) in rows.into_iter().take(SHOWN_MAX) {
            let _ = writeln!(text, "  {:5.1}%  {name}", percent(*count));
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_sorted_and_adds_up() {
        let kernel = [("b".to_owned(), 1), ("a".to_owned(), 2)].into();
        let table = Samples { user: 1, kernel }.table();
        let lines: Vec<_> = table.lines().collect();
        assert_eq!(lines[0], "profile: 4 samples, 25.0% in user mode, 75.0% in the kernel");
        assert_eq!(lines[1..], ["   50.0%  a", "   25.0%  b"]);
    }
}
