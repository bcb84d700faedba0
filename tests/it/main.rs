//! What the crate promises, checked from outside: one binary, a module a subject.

mod authorization;
mod carriers;
mod contract;
mod headers;
mod key_format;
mod keys;
mod on_axum;
mod quickstart;
mod refusals;
mod secrets;
mod support;
mod tidy;
