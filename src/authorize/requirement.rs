//! [`Requirement`]: an expression of scopes and facts that a caller must meet.

use std::fmt;
use std::ops::{BitAnd, BitOr, Not};

use crate::config::{ConfigError, Quoted, literal};
use crate::identity::{Identity, IdentityField, Kind};
use crate::scope::{ScopeSet, is_scope};

/// What a caller must have, as an expression of [`scope`], [`role`], [`kind`],
/// [`tenant`] and [`attribute`], put together with `&` and `|`.
///
/// ```
/// use tollgate::Identity;
/// use tollgate::authorize::{role, scope, tenant};
///
/// let needed = scope("orders:write") & (role("clerk") | !tenant("guests"));
///
/// let clerk = Identity::for_test().scopes("orders:write".parse()?).role("clerk").build();
/// assert!(needed.is_met_by(&clerk));
/// let stranger = Identity::for_test().role("clerk").build();
/// assert!(!needed.is_met_by(&stranger));
/// # Ok::<(), tollgate::scope::InvalidScope>(())
/// ```
///
/// A scope cannot be negated: fewer scopes must never allow more. An anonymous caller meets no
/// requirement, not even an empty or a negated one. [`Fact`] says what a negation means for a caller
/// about whom not everything is known.
#[derive(Clone)]
pub struct Requirement(Node);

#[derive(Clone)]
enum Node {
    /// A scope, and all that grant it, itself first.
    Scope(Vec<Box<str>>),
    Fact(Fact),
    All(Vec<Self>),
    Any(Vec<Self>),
}

/// A condition on a role, kind, tenant or attribute. `!` negates it.
///
/// A negated condition is met only if it certainly holds:
/// - The field must be [known](Identity::is_known). `!role("suspended")` is not met by a token of an
///   issuer without [`roles_from`](crate::auth::jwt::Issuer::roles_from), nor by a token that lacks
///   that claim. It is met by an API key without roles.
/// - The name must not appear in the value under any reading: as one of several words between
///   spaces, commas or semicolons, or as an object key whose value is `false` or `null`.
///   `!tenant("acme")` is not met in the tenant `acme emea`.
///
/// ```
/// use tollgate::identity::IdentityField;
/// use tollgate::authorize::Requirement;
/// use tollgate::{Identity, role};
///
/// let needed = Requirement::from(!role("suspended"));
/// assert!(needed.is_met_by(&Identity::for_test().role("clerk").build()));
/// assert!(!needed.is_met_by(&Identity::for_test().role("clerk suspended").build()));
/// assert!(!needed.is_met_by(&Identity::for_test().unknown(IdentityField::Roles).build()));
/// ```
#[derive(Clone)]
pub struct Fact {
    test: Test,
    negated: bool,
}

#[derive(Clone)]
enum Test {
    Role(Box<str>),
    Kind(Kind),
    Tenant(Box<str>),
    Attribute(Box<str>, Box<str>),
}

/// The caller was granted this scope.
///
/// # Panics
/// If it is none by RFC 6749 §3.3: empty, or with a space, a quote, a backslash or a
/// character that is not printable ASCII.
#[must_use]
#[track_caller]
pub fn scope(scope: &str) -> Requirement {
    literal(try_scope(scope))
}

/// As [`scope`], for a scope from configuration.
///
/// # Errors
/// Where `scope` panics.
pub fn try_scope(scope: &str) -> Result<Requirement, ConfigError> {
    if let Err(error) = ScopeSet::try_new([scope]) {
        let mut words = scope.split_whitespace();
        let fix = match (words.next(), words.next()) {
            (Some(first), Some(second)) if is_scope(first) && is_scope(second) => format!(
                ": `scope({}) & scope({})` requires both, `|` one of them",
                Quoted(first),
                Quoted(second)
            ),
            _ => String::new(),
        };
        return Err(ConfigError::new(format!("`scope`: {error}{fix}")));
    }
    Ok(Requirement(Node::Scope(vec![scope.into()])))
}

/// The caller has this role.
#[must_use]
pub fn role(role: impl Into<Box<str>>) -> Fact {
    Fact {
        test: Test::Role(role.into()),
        negated: false,
    }
}

/// The caller is an application, or acts for a user.
#[must_use]
pub fn kind(kind: Kind) -> Fact {
    Fact {
        test: Test::Kind(kind),
        negated: false,
    }
}

/// The caller belongs to this tenant.
#[must_use]
pub fn tenant(tenant: impl Into<Box<str>>) -> Fact {
    Fact {
        test: Test::Tenant(tenant.into()),
        negated: false,
    }
}

/// The metadata of the caller has this value under this name.
#[must_use]
pub fn attribute(name: impl Into<Box<str>>, value: impl Into<Box<str>>) -> Fact {
    Fact {
        test: Test::Attribute(name.into(), value.into()),
        negated: false,
    }
}

/// Any caller will do, as long as it is known who they are.
#[must_use]
pub fn authenticated() -> Requirement {
    Requirement(Node::All(Vec::new()))
}

/// All of these must be met. With none of them, any known caller will do.
#[must_use]
pub fn all<I>(requirements: I) -> Requirement
where
    I: IntoIterator,
    I::Item: Into<Requirement>,
{
    Requirement(Node::All(
        requirements.into_iter().map(|each| each.into().0).collect(),
    ))
}

/// One of these must be met. With none of them, nobody will do.
#[must_use]
pub fn any<I>(requirements: I) -> Requirement
where
    I: IntoIterator,
    I::Item: Into<Requirement>,
{
    Requirement(Node::Any(
        requirements.into_iter().map(|each| each.into().0).collect(),
    ))
}

impl Requirement {
    /// Whether a known caller meets it.
    #[must_use]
    pub fn is_met_by(&self, identity: &Identity) -> bool {
        self.0.is_met_by(identity)
    }

    /// The fewest scopes with which this caller would meet it, held or not; none if
    /// no scopes would do.
    pub(crate) fn scopes_for(&self, identity: &Identity) -> Option<Vec<&str>> {
        self.0.scopes(&|fact| fact.is_true_of(identity))
    }

    /// The fewest scopes that would do for a caller of whom nothing is known: without
    /// any facts about them if that can be, else with those that are needed.
    pub(crate) fn scopes_for_strangers(&self) -> Vec<&str> {
        let without = self.0.scopes(&|_| false);
        without
            .or_else(|| self.0.scopes(&|_| true))
            .unwrap_or_default()
    }

    /// The same, with every scope also met by those that grant it.
    #[must_use]
    pub(crate) fn under(self, hierarchy: &Hierarchy) -> Self {
        Self(self.0.under(hierarchy))
    }
}

impl Node {
    fn is_met_by(&self, identity: &Identity) -> bool {
        match self {
            Self::Scope(granting) => granting
                .iter()
                .any(|scope| identity.scopes().contains(scope)),
            Self::Fact(fact) => fact.is_true_of(identity),
            Self::All(nodes) => nodes.iter().all(|node| node.is_met_by(identity)),
            Self::Any(nodes) => nodes.iter().any(|node| node.is_met_by(identity)),
        }
    }

    fn scopes(&self, is_true: &dyn Fn(&Fact) -> bool) -> Option<Vec<&str>> {
        match self {
            Self::Scope(granting) => Some(vec![&granting[0]]),
            Self::Fact(fact) => is_true(fact).then(Vec::new),
            Self::All(nodes) => {
                let mut needed = Vec::new();
                for node in nodes {
                    for scope in node.scopes(is_true)? {
                        if !needed.contains(&scope) {
                            needed.push(scope);
                        }
                    }
                }
                Some(needed)
            }
            Self::Any(nodes) => nodes
                .iter()
                .filter_map(|node| node.scopes(is_true))
                .min_by_key(Vec::len),
        }
    }

    fn under(self, hierarchy: &Hierarchy) -> Self {
        let each = |nodes: Vec<Self>| {
            nodes
                .into_iter()
                .map(|node| node.under(hierarchy))
                .collect()
        };
        match self {
            Self::Scope(granting) => Self::Scope(hierarchy.granting(granting)),
            Self::All(nodes) => Self::All(each(nodes)),
            Self::Any(nodes) => Self::Any(each(nodes)),
            fact @ Self::Fact(_) => fact,
        }
    }
}

impl Fact {
    /// A negated condition is more than the opposite of the condition: what is denied must be known
    /// to be false.
    fn is_true_of(&self, identity: &Identity) -> bool {
        match (&self.test, self.negated) {
            (Test::Role(role), false) => identity.has_role(role),
            (Test::Role(role), true) => identity.lacks_role(role),
            (Test::Kind(kind), false) => identity.kind() == *kind,
            (Test::Kind(kind), true) => {
                identity.is_known(IdentityField::Kind) && identity.kind() != *kind
            }
            (Test::Tenant(tenant), false) => identity.tenant() == Some(tenant),
            (Test::Tenant(tenant), true) => identity.lacks_tenant(tenant),
            (Test::Attribute(name, value), false) => {
                let held = identity.metadata().get(&**name);
                held.is_some_and(|held| *held == **value)
            }
            (Test::Attribute(name, value), true) => identity.lacks_attribute(name, value),
        }
    }
}

impl From<Fact> for Requirement {
    fn from(fact: Fact) -> Self {
        Self(Node::Fact(fact))
    }
}

impl Not for Fact {
    type Output = Self;

    fn not(self) -> Self {
        Self {
            negated: !self.negated,
            ..self
        }
    }
}

impl<R: Into<Self>> BitAnd<R> for Requirement {
    type Output = Self;

    fn bitand(self, other: R) -> Self {
        all([self, other.into()])
    }
}

impl<R: Into<Self>> BitOr<R> for Requirement {
    type Output = Self;

    fn bitor(self, other: R) -> Self {
        any([self, other.into()])
    }
}

impl<R: Into<Requirement>> BitAnd<R> for Fact {
    type Output = Requirement;

    fn bitand(self, other: R) -> Requirement {
        all([self.into(), other.into()])
    }
}

impl<R: Into<Requirement>> BitOr<R> for Fact {
    type Output = Requirement;

    fn bitor(self, other: R) -> Requirement {
        any([self.into(), other.into()])
    }
}

/// As it is written, fully parenthesized.
impl fmt::Display for Requirement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

impl fmt::Debug for Requirement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

impl fmt::Display for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (nodes, joint, nothing) = match self {
            Self::Scope(granting) => return write!(f, "scope({:?})", granting[0]),
            Self::Fact(fact) => return write!(f, "{fact}"),
            Self::All(nodes) => (nodes, " & ", "authenticated()"),
            Self::Any(nodes) => (nodes, " | ", "nobody"),
        };
        match &nodes[..] {
            [] => f.write_str(nothing),
            [only] => write!(f, "{only}"),
            [first, rest @ ..] => {
                write!(f, "({first}")?;
                rest.iter()
                    .try_for_each(|node| write!(f, "{joint}{node}"))?;
                f.write_str(")")
            }
        }
    }
}

impl fmt::Display for Fact {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.negated { "!" } else { "" })?;
        match &self.test {
            Test::Role(role) => write!(f, "role({role:?})"),
            Test::Kind(kind) => write!(f, "kind({kind:?})"),
            Test::Tenant(tenant) => write!(f, "tenant({tenant:?})"),
            Test::Attribute(name, value) => write!(f, "attribute({name:?}, {value:?})"),
        }
    }
}

impl fmt::Debug for Fact {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Which scopes grant others. Nothing is granted that is not declared here.
///
/// ```
/// use tollgate::Identity;
/// use tollgate::authorize::{Hierarchy, RequireLayer, scope};
///
/// let hierarchy = Hierarchy::new()
///     .wildcards(':')                          // orders:* grants orders:read
///     .implies("orders:write", "orders:read"); // who writes may read
/// let layer = RequireLayer::new(scope("orders:read")).hierarchy(&hierarchy);
/// ```
#[derive(Clone, Debug, Default)]
#[must_use]
pub struct Hierarchy {
    separator: Option<char>,
    implied: Vec<(Box<str>, Box<str>)>,
}

impl Hierarchy {
    /// Every scope grants itself and nothing else.
    pub fn new() -> Self {
        Self::default()
    }

    /// A granted scope that ends in the separator and `*` grants all scopes that
    /// start with what stands before the `*`, however deep.
    ///
    /// # Panics
    /// If the separator is `*`, or cannot stand in a scope.
    #[track_caller]
    pub fn wildcards(self, separator: char) -> Self {
        literal(self.try_wildcards(separator))
    }

    /// As [`Hierarchy::wildcards`], for a separator from configuration.
    ///
    /// # Errors
    /// Where `wildcards` panics.
    pub fn try_wildcards(mut self, separator: char) -> Result<Self, ConfigError> {
        if separator == '*' || !is_scope(separator.encode_utf8(&mut [0; 4])) {
            return Err(ConfigError::new(format!(
                "`Hierarchy::wildcards`: {separator:?} cannot be between the parts of a scope; use a \
                 character such as ':' or '.', and not '*'"
            )));
        }
        self.separator = Some(separator);
        Ok(self)
    }

    /// The first scope grants the second, and whatever that grants.
    ///
    /// # Panics
    /// If one of them is none: see [`scope`].
    #[track_caller]
    pub fn implies(self, granting: &str, granted: &str) -> Self {
        literal(self.try_implies(granting, granted))
    }

    /// As [`Hierarchy::implies`], for scopes from configuration.
    ///
    /// # Errors
    /// Where `implies` panics.
    pub fn try_implies(mut self, granting: &str, granted: &str) -> Result<Self, ConfigError> {
        try_scope(granting)?;
        try_scope(granted)?;
        self.implied.push((granting.into(), granted.into()));
        Ok(self)
    }

    /// These scopes and all that grant them, in the order in which they are found.
    fn granting(&self, mut granting: Vec<Box<str>>) -> Vec<Box<str>> {
        let mut next = 0;
        while let Some(granted) = granting.get(next).cloned() {
            let wider = self.separator.into_iter().flat_map(|separator| {
                let ends = granted
                    .match_indices(separator)
                    .map(|(at, text)| at + text.len());
                ends.map(|end| format!("{}*", &granted[..end]).into())
                    .collect::<Vec<Box<str>>>()
            });
            let implying = self
                .implied
                .iter()
                .filter(|(_, implied)| *implied == granted);
            for found in wider.chain(implying.map(|(granting, _)| granting.clone())) {
                if !granting.contains(&found) {
                    granting.push(found);
                }
            }
            next += 1;
        }
        granting
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn identity(scopes: &str) -> Identity {
        Identity::builder("test", "test")
            .scopes(scopes.parse().unwrap())
            .build()
    }

    #[test]
    fn an_empty_requirement_wants_a_known_caller_and_an_empty_choice_nobody() {
        assert!(authenticated().is_met_by(&identity("")));
        assert!(all::<[Requirement; 0]>([]).is_met_by(&identity("")));
        assert!(!any::<[Requirement; 0]>([]).is_met_by(&identity("a")));
    }

    #[test]
    fn the_challenge_names_the_fewest_scopes_that_would_do() {
        let needed = scope("a") & (scope("b") & scope("c") | scope("d") | role("admin"));
        assert_eq!(needed.scopes_for(&identity("")), Some(vec!["a", "d"]));
        let admin = Identity::builder("test", "test").role("admin").build();
        assert_eq!(needed.scopes_for(&admin), Some(vec!["a"]));
        let needed = scope("a") & role("admin");
        assert_eq!(needed.scopes_for(&identity("a")), None);
    }

    #[test]
    fn only_what_is_declared_is_granted() {
        let wide = Hierarchy::new().wildcards(':').implies("admin", "orders:*");
        let read = scope("orders:items:read");
        assert!(!read.is_met_by(&identity("orders:* orders:items:*")));
        let read = read.under(&wide);
        for granting in ["orders:items:read", "orders:items:*", "orders:*", "admin"] {
            assert!(read.is_met_by(&identity(granting)), "{granting}");
        }
        for other in [
            "orders",
            "*",
            "order:*",
            "orders*",
            "orders:items",
            "orders:items:rea*",
        ] {
            assert!(!read.is_met_by(&identity(other)), "{other}");
        }
    }

    #[test]
    fn implications_chain_and_may_form_a_circle() {
        let circle = Hierarchy::new()
            .implies("a", "b")
            .implies("b", "c")
            .implies("c", "a");
        let b = scope("b").under(&circle);
        assert!(b.is_met_by(&identity("c")));
        assert!(!b.is_met_by(&identity("d")));
    }

    #[test]
    fn a_requirement_reads_as_it_is_written() {
        let needed = scope("a") & (!role("guest") | tenant("x")) & any([kind(Kind::User)]);
        let text = r#"((scope("a") & (!role("guest") | tenant("x"))) & kind(User))"#;
        assert_eq!(needed.to_string(), text);
    }
}
