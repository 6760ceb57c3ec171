//! Fork.
/// Boot option `sharing=`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Sharing {
    /// Copies every level.
    None,
    /// Shares PTE pages.
    Pte,
    /// Shares whole subtrees.
    Tree,
}
