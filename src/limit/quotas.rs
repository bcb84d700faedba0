//! [`Quotas`]: all that a caller is held to at once.

use std::fmt;
use std::hash::BuildHasher;
use std::sync::Arc;

use foldhash::fast::FixedState;
use http::HeaderValue;

use crate::config::{ConfigError, literal};
use crate::limit::fields;
use crate::limit::gcra::Rate;
use crate::limit::quota::Quota;

/// One or several quotas, decided and paid for together: a request that one of them
/// refuses costs nothing of the others.
///
/// ```
/// use tollgate::limit::{Quota, Quotas};
///
/// let quotas = Quotas::new([Quota::per_second(50).burst(100), Quota::per_hour(20_000)]);
/// assert_eq!(quotas.iter().count(), 2);
/// ```
#[derive(Clone)]
pub struct Quotas {
    inner: Arc<Inner>,
}

struct Inner {
    quotas: Box<[Quota]>,
    rates: Box<[Rate]>,
    /// Of each: what tells it apart from others of the same caller.
    marks: Box<[u64]>,
    policy: HeaderValue,
    names: Box<[Arc<str>]>,
}

impl Quotas {
    /// How many quotas there can be in one.
    pub const MOST: usize = 4;

    /// These quotas together.
    ///
    /// # Panics
    /// If there is none, if there are more than four, or if two have the same name.
    #[must_use]
    #[track_caller]
    pub fn new(quotas: impl IntoIterator<Item = Quota>) -> Self {
        literal(Self::try_new(quotas))
    }

    /// As [`Quotas::new`], for quotas from configuration.
    ///
    /// # Errors
    /// Where `new` panics.
    pub fn try_new(quotas: impl IntoIterator<Item = Quota>) -> Result<Self, ConfigError> {
        let quotas: Box<[Quota]> = quotas.into_iter().collect();
        if !(1..=Self::MOST).contains(&quotas.len()) {
            return Err(ConfigError::new(format!(
                "`Quotas::new`: there are {} quotas; give 1 to {}",
                quotas.len(),
                Self::MOST
            )));
        }
        for (at, quota) in quotas.iter().enumerate() {
            if quotas[..at]
                .iter()
                .any(|other| other.name() == quota.name())
            {
                return Err(ConfigError::new(format!(
                    "`Quotas::new`: two quotas have the name {:?}; give one of them another name \
                     with `.named(\"…\")`",
                    quota.name()
                )));
            }
        }
        Ok(Self::of(quotas))
    }

    fn of(quotas: Box<[Quota]>) -> Self {
        let described = quotas
            .iter()
            .map(|quota| (quota.name().into(), quota.burst_size(), quota.rate()));
        let inner = Inner {
            policy: fields::policy(described),
            rates: quotas.iter().map(Quota::rate).collect(),
            names: quotas.iter().map(|quota| quota.name().into()).collect(),
            marks: quotas.iter().map(|quota| mark(quota.name())).collect(),
            quotas,
        };
        Self {
            inner: Arc::new(inner),
        }
    }

    /// The quotas, in the order in which they were given.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &Quota> {
        self.inner.quotas.iter()
    }

    pub(crate) fn rates(&self) -> &[Rate] {
        &self.inner.rates
    }

    pub(crate) fn policy(&self) -> &HeaderValue {
        &self.inner.policy
    }

    /// The names of those that a refusal is about.
    pub(crate) fn named(&self, violated: u8) -> Arc<str> {
        let names = &self.inner.names;
        if let Some(name) = names.get(violated.trailing_zeros() as usize)
            && violated.is_power_of_two()
        {
            return Arc::clone(name);
        }
        let mut text = String::new();
        for (at, quota) in self.iter().enumerate() {
            if violated & (1 << at) != 0 {
                if !text.is_empty() {
                    text.push(' ');
                }
                text.push_str(quota.name());
            }
        }
        text.into()
    }

    pub(crate) fn marks(&self) -> &[u64] {
        &self.inner.marks
    }

    /// A share of each.
    #[cfg(feature = "redis")]
    pub(crate) fn share(&self, share: u32, of: u32) -> Self {
        Self::of(self.iter().map(|quota| quota.share(share, of)).collect())
    }
}

impl fmt::Debug for Quotas {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}

impl From<Quota> for Quotas {
    /// One quota.
    fn from(quota: Quota) -> Self {
        Self::of([quota].into())
    }
}

impl<const N: usize> From<[Quota; N]> for Quotas {
    /// As [`Quotas::new`], with its panics.
    #[track_caller]
    fn from(quotas: [Quota; N]) -> Self {
        Self::new(quotas)
    }
}

/// Cells are by the name of their quota, so that a plan with other numbers goes on where
/// the last one stood. It is the operator's text: nobody else can choose collisions.
fn mark(name: &str) -> u64 {
    FixedState::default().hash_one(name)
}
