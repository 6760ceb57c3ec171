//! The pools as the kernel's command line asks for them (Documentation/admin-guide/kernel-parameters.txt; Linux:
//! `hugepages_setup`, `hugepagesz_setup`, `default_hugepagesz_setup`, `hugetlb_init` in mm/hugetlb.c).
//!
//! ```text
//! hugepages=N            of the size that the last hugepagesz= or default_hugepagesz= before it names, else of the default;
//!                        also `0:N`, as there is one memory node
//! hugepagesz=SIZE        for the hugepages= that follows
//! default_hugepagesz=SIZE what is meant where nobody names a size
//! ```

use super::{HUGE_SIZES, HugeSize};
use core::fmt::{Arguments, Display};

/// What the command line asks for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PoolOptions {
    /// Pages, by size.
    pub pages: [u64; HUGE_SIZES],
    /// The size where none is named.
    pub default: HugeSize,
}

/// Which pool a `hugepages=` is about.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Target {
    /// The size that comes out as the default.
    Default,
    Named(HugeSize),
    /// None, as the `hugepagesz=` before it is refused.
    Refused,
}

struct Parser<'a> {
    named: [Option<u64>; HUGE_SIZES],
    seen: [bool; HUGE_SIZES],
    unnamed: Option<u64>,
    default: Option<HugeSize>,
    target: Target,
    last: Option<Target>,
    has_size: &'a dyn Fn(HugeSize) -> bool,
    warn: &'a mut dyn FnMut(Arguments<'_>),
}

impl PoolOptions {
    /// Reads the words of a command line. `has_size` says which sizes there are, and `warn` is told of what is ignored, in
    /// Linux's words.
    pub fn parse<'a>(
        words: impl Iterator<Item = &'a str>,
        has_size: &dyn Fn(HugeSize) -> bool,
        warn: &mut dyn FnMut(Arguments<'_>),
    ) -> PoolOptions {
        let mut parser = Parser {
            named: [None; HUGE_SIZES],
            seen: [false; HUGE_SIZES],
            unnamed: None,
            default: None,
            target: Target::Default,
            last: None,
            has_size,
            warn,
        };
        for word in words {
            match word.split_once('=') {
                Some(("hugepagesz", value)) => parser.size(value),
                Some(("default_hugepagesz", value)) => parser.default_size(value),
                Some(("hugepages", value)) => parser.pages(value),
                _ => {}
            }
        }
        parser.finish()
    }
}

impl Parser<'_> {
    fn known(&mut self, option: &str, value: &str) -> Option<HugeSize> {
        let bytes = memparse(value);
        let found =
            HugeSize::ALL.into_iter().find(|size| Some(size.bytes()) == bytes && (self.has_size)(*size));
        if found.is_none() {
            (self.warn)(format_args!("HugeTLB: unsupported {option}={value}"));
        }
        found
    }

    fn size(&mut self, value: &str) {
        self.target = Target::Refused;
        let Some(size) = self.known("hugepagesz", value) else { return };
        // The default may be named once more, for its number of pages.
        let again = self.default == Some(size) && self.named[size.index()].is_none();
        if self.seen[size.index()] && !again {
            self.ignore("hugepagesz", value, &"specified twice");
            return;
        }
        self.seen[size.index()] = true;
        self.target = Target::Named(size);
    }

    fn default_size(&mut self, value: &str) {
        self.target = Target::Refused;
        if self.default.is_some() {
            self.ignore("default_hugepagesz", value, &"previously specified");
            return;
        }
        let Some(size) = self.known("default_hugepagesz", value) else { return };
        self.default = Some(size);
        self.seen[size.index()] = true;
        self.target = Target::Named(size);
        // A number that came first, without a size, is meant for this one.
        if let Some(pages) = self.unnamed.take() {
            self.named[size.index()] = Some(pages);
        }
    }

    fn pages(&mut self, value: &str) {
        let target = self.target;
        if target == Target::Refused {
            self.ignore("hugepages", value, &"does not follow a valid hugepagesz");
            self.target = Target::Default;
            return;
        }
        if self.last == Some(target) {
            self.ignore("hugepages", value, &"specified twice without interleaving hugepagesz=");
            return;
        }
        let Some(pages) = node_pages(value) else {
            (self.warn)(format_args!("HugeTLB: Invalid hugepages parameter {value}"));
            return;
        };
        match target {
            Target::Named(size) => self.named[size.index()] = Some(pages),
            _ => self.unnamed = Some(pages),
        }
        self.last = Some(target);
    }

    fn ignore(&mut self, option: &str, value: &str, why: &dyn Display) {
        (self.warn)(format_args!("HugeTLB: {option}={value} {why}, ignoring"));
    }

    fn finish(mut self) -> PoolOptions {
        let default = self.default.unwrap_or(HugeSize::Mib2);
        if let Some(pages) = self.unnamed {
            let named = &mut self.named[default.index()];
            if named.is_some() {
                (self.warn)(format_args!("HugeTLB: hugepages={pages} ignored, as a size says otherwise"));
            } else {
                *named = Some(pages);
            }
        }
        PoolOptions { pages: self.named.map(|pages| pages.unwrap_or(0)), default }
    }
}

/// A number of pages, or one for the only node, `0:N`.
fn node_pages(value: &str) -> Option<u64> {
    value.strip_prefix("0:").unwrap_or(value).parse().ok()
}

/// A number with a unit (K, M, G, or none), as `memparse` reads it (lib/cmdline.c); `None` for anything else.
pub fn memparse(value: &str) -> Option<u64> {
    let shift = match value.as_bytes().last()? {
        b'k' | b'K' => 10,
        b'm' | b'M' => 20,
        b'g' | b'G' => 30,
        _ => 0,
    };
    let digits = if shift == 0 { value } else { value.get(..value.len() - 1)? };
    digits.parse::<u64>().ok()?.checked_mul(1 << shift)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::string::{String, ToString};
    use std::vec::Vec;

    fn parse(line: &str, gib: bool) -> ([u64; 2], HugeSize, Vec<String>) {
        let mut warnings = Vec::new();
        let has = |size| gib || size == HugeSize::Mib2;
        let options =
            PoolOptions::parse(line.split_whitespace(), &has, &mut |text| warnings.push(text.to_string()));
        (options.pages, options.default, warnings)
    }

    #[test]
    fn a_number_belongs_to_the_size_before_it() {
        for (line, pages, default) in [
            ("", [0, 0], HugeSize::Mib2),
            ("hugepages=5", [5, 0], HugeSize::Mib2),
            ("quiet hugepages=0:5 hugepagesz=1G hugepages=2", [5, 2], HugeSize::Mib2),
            ("hugepagesz=1G hugepages=2 hugepagesz=2M hugepages=7", [7, 2], HugeSize::Mib2),
            ("hugepagesz=2048K hugepages=3", [3, 0], HugeSize::Mib2),
            ("default_hugepagesz=1G hugepages=2", [0, 2], HugeSize::Gib1),
            ("hugepages=2 default_hugepagesz=1G", [0, 2], HugeSize::Gib1),
            ("hugepages=2 default_hugepagesz=1G hugepagesz=2M hugepages=9", [9, 2], HugeSize::Gib1),
            (
                "default_hugepagesz=1G hugepagesz=2M hugepages=9 hugepagesz=1G hugepages=1",
                [9, 1],
                HugeSize::Gib1,
            ),
            ("default_hugepagesz=1G", [0, 0], HugeSize::Gib1),
        ] {
            assert_eq!(parse(line, true), (pages, default, Vec::new()), "{line}");
        }
    }

    #[test]
    fn what_makes_no_sense_is_ignored_and_said() {
        for (line, pages, default, warning) in [
            ("hugepagesz=1G hugepages=2", [0, 0], HugeSize::Mib2, "unsupported hugepagesz=1G"),
            ("hugepagesz=4M hugepages=2 hugepages=3", [3, 0], HugeSize::Mib2, "follow a valid hugepagesz"),
            (
                "default_hugepagesz=1G hugepages=2",
                [0, 0],
                HugeSize::Mib2,
                "unsupported default_hugepagesz=1G",
            ),
            ("hugepages=2 hugepages=3", [2, 0], HugeSize::Mib2, "without interleaving"),
            ("hugepages=x hugepages=3", [3, 0], HugeSize::Mib2, "Invalid hugepages parameter x"),
            ("hugepages=1:4", [0, 0], HugeSize::Mib2, "Invalid hugepages parameter 1:4"),
            (
                "hugepagesz=2M hugepages=3 hugepagesz=2M hugepages=4",
                [3, 0],
                HugeSize::Mib2,
                "specified twice",
            ),
            ("default_hugepagesz=2M hugepages=3 default_hugepagesz=2M", [3, 0], HugeSize::Mib2, "previously"),
            ("hugepages=2 hugepagesz=2M hugepages=4", [4, 0], HugeSize::Mib2, "ignored"),
        ] {
            let (found, size, warnings) = parse(line, false);
            assert_eq!((found, size), (pages, default), "{line}");
            assert!(warnings.iter().any(|said| said.contains(warning)), "{line}: {warnings:?}");
        }
    }
}
