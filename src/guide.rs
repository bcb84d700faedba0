//! Guides for tasks that take more than one item of this crate.

pub mod deployment {
    #![doc = include_str!("../docs/deployment.md")]
}
