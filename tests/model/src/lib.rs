//! Model-based tests of the memory-management core.
