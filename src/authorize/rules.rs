//! [`Rules`]: what each route of a server requires, in one place.

use std::collections::HashMap;
use std::{fmt, mem};

use http::Method;
use http::request::Parts;
use matchit::Router;

use crate::authorize::path::{REST, Route, Spelling};
use crate::authorize::requirement::{Hierarchy, Requirement};
use crate::config::{ConfigError, literal};
use crate::restriction::rule_method;
use crate::scope::ScopeSet;

/// What each route requires: for a [`RequireLayer`](crate::RequireLayer) in front of a
/// whole router.
///
/// ```
/// use tollgate::authorize::{Rules, authenticated, role, scope};
/// use tollgate::RequireLayer;
///
/// let rules = Rules::new()
///     .route("GET /orders/{id}", scope("orders:read"))
///     .route("POST /orders", scope("orders:write") | role("admin"))
///     .route("/shop.Orders/*", authenticated()) // all calls of a gRPC service
///     .public("GET /health")
///     .otherwise_deny();
/// let layer = RequireLayer::new(rules);
/// ```
///
/// A route is a method and a path, or a path for all methods. `{name}` stands for one
/// segment, `*` or `{*name}` at the end for the rest, be it nothing: `/x/*` is for `/x/` and
/// `/x` too, as what is nested in a router is, unless they have rules of their own. Of
/// several rules that fit a path the most specific holds, as in axum: a literal segment
/// before a parameter or the rest, which cannot both stand at the same place. A path that
/// has rules for other methods only is rejected. `HEAD` is `GET`, unless it has a rule of
/// its own. So is a `CONNECT` with a path over HTTP/2, which opens a WebSocket (RFC 8441). Servers that
/// offer other protocols by such a `CONNECT` (WebTransport, RFC 9298) need rules for that method.
///
/// Characters of a path that are not ASCII may be written as they are: `/café` is the same as
/// `/caf%C3%A9`, which is what clients send and what the route of an axum router must be.
///
/// # Public routes
/// Tell the `AuthLayer` outside which routes are public:
/// [`AuthLayer::optional_for`](crate::AuthLayer::optional_for) with [`Rules::public_routes`]. Otherwise
/// it rejects every request without a credential before any rule is read. Behind an
/// [`optional`](crate::AuthLayer::optional) layer, a request without a credential passes where the rule
/// is [`Rules::public`], and is rejected with 401 elsewhere. Such a layer does not search the query for
/// credentials, so prefer `optional_for`.
///
/// # Challenges
/// A 401 for a request without a credential names the scopes of the rule behind an optional layer. For
/// every 401, also of a token that has expired, pass [`Rules::challenge_scopes`] to
/// [`AuthLayer::challenge_scopes_for`](crate::AuthLayer::challenge_scopes_for).
///
/// # Nested routers
/// The rules see the path that the layer sees. On the outermost router that is the whole path. A layer
/// that is added to a router before it is nested (`Router::nest` of axum) sees the path without the
/// prefix: write its rules without it. Put `AuthLayer` and `RequireLayer` at the same place.
///
/// # Spelling
/// The rules see the path as it came, as axum and tonic do. No other spelling of a path
/// gets past them. A path is rejected if it has empty or dot segments, a backslash, control characters,
/// or an encoded slash (see [`Rules::allow_encoded_slashes`]). It is also rejected if another rule would
/// hold for it when it is decoded, in lower case, or without the slash at its end. The status is 401
/// for an anonymous caller, else 403.
#[derive(Clone, Default)]
pub struct Rules {
    rules: Vec<Rule>,
    exact: Table,
    fold: Table,
    /// Whether a path that is its own fold can find different rules in the two.
    tables_differ: bool,
    otherwise: Option<Requirement>,
}

#[derive(Clone)]
struct Rule {
    route: Route,
    access: Access,
    /// Set if parameters may have encoded slashes in them.
    encoded_slashes: bool,
}

#[derive(Clone)]
enum Access {
    Public,
    Requires(Requirement),
}

/// What stands at a path: the rules by their method.
#[derive(Clone, Default)]
struct Table {
    router: Router<usize>,
    by_pattern: HashMap<String, usize>,
    nodes: Vec<Node>,
}

#[derive(Clone, Default)]
struct Node {
    rules: Vec<usize>,
    /// Its rules are those of the rest of a path, of which this is the beginning.
    is_lent: bool,
    is_rest: bool,
}

/// What the rules say about a request.
#[derive(Debug)]
pub(super) enum Ruling<'a> {
    Public,
    Requires(&'a Requirement),
    /// No rule lets anybody in.
    Nobody,
    /// The path could be taken for another one.
    Ambiguous,
}

impl Rules {
    /// No rules: nobody passes.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Requires something of those who call a route.
    ///
    /// # Panics
    /// If the route does not parse, or there is a rule for it already.
    #[must_use]
    #[track_caller]
    pub fn route(self, route: &str, requirement: impl Into<Requirement>) -> Self {
        literal(self.try_route(route, requirement))
    }

    /// As [`Rules::route`], for a route from configuration.
    ///
    /// # Errors
    /// Where `route` panics.
    pub fn try_route(
        self,
        route: &str,
        requirement: impl Into<Requirement>,
    ) -> Result<Self, ConfigError> {
        self.add(route, Access::Requires(requirement.into()))
    }

    /// Lets everybody call a route.
    ///
    /// An `AuthLayer` outside still rejects requests without a credential, unless it knows
    /// these routes: see [`Rules::public_routes`].
    ///
    /// # Panics
    /// Panics where [`Rules::route`] does.
    #[must_use]
    #[track_caller]
    pub fn public(self, route: &str) -> Self {
        literal(self.try_public(route))
    }

    /// As [`Rules::public`], for a route from configuration.
    ///
    /// # Errors
    /// Where `route` panics.
    pub fn try_public(self, route: &str) -> Result<Self, ConfigError> {
        self.add(route, Access::Public)
    }

    /// Lets nobody call what has no rule. It is so unless told otherwise, and reads better
    /// where it is said.
    #[must_use]
    pub fn otherwise_deny(mut self) -> Self {
        self.otherwise = None;
        self
    }

    /// Requires something of those who call what has no rule.
    #[must_use]
    pub fn otherwise(mut self, requirement: impl Into<Requirement>) -> Self {
        self.otherwise = Some(requirement.into());
        self
    }

    /// Allows encoded slashes (`%2F`) in the parameters of a route that has a rule, such as the package
    /// name in `/packages/@scope%2Fname`. Without this, the request is rejected with 403.
    ///
    /// Call it only if the router and the handler do not decode the path before they split it into
    /// segments, as axum does not. Otherwise the request could reach another route than its rule is
    /// for. Encoded slashes beside empty or dot segments are rejected anyway.
    ///
    /// ```
    /// use tollgate::authorize::{Rules, scope};
    ///
    /// let rules = Rules::new()
    ///     .route("GET /packages/{name}", scope("packages:read"))
    ///     .allow_encoded_slashes("GET /packages/{name}");
    /// ```
    ///
    /// # Panics
    /// Panics if there is no rule for this very route.
    #[must_use]
    #[track_caller]
    pub fn allow_encoded_slashes(self, route: &str) -> Self {
        literal(self.try_allow_encoded_slashes(route))
    }

    /// Like [`Rules::allow_encoded_slashes`], for a route from configuration.
    ///
    /// # Errors
    /// Returns `Err` if there is no rule for this very route.
    pub fn try_allow_encoded_slashes(mut self, route: &str) -> Result<Self, ConfigError> {
        let wanted = parse(route)?;
        // The rule that holds for the route: another spelling of it may share the rule.
        let mut own = self.exact.own_rules(&wanted.exact).iter().copied();
        let rule = own.find(|rule| self.rules[*rule].route.method == wanted.method);
        let rule = rule.ok_or_else(|| {
            let fix = "add the rule first";
            ConfigError::new(format!(
                "Rules::allow_encoded_slashes: {route:?} has no rule; {fix}"
            ))
        })?;
        self.rules[rule].encoded_slashes = true;
        Ok(self)
    }

    /// Returns whether a request goes to a public route, as a function: for
    /// [`AuthLayer::optional_for`](crate::AuthLayer::optional_for), so that requests to these routes
    /// need no credential.
    ///
    /// ```
    /// # tokio::runtime::Builder::new_current_thread().build()?.block_on(async {
    /// use http::{Request, Response};
    /// use tollgate::authorize::{Rules, scope};
    /// use tollgate::keys::Peppers;
    /// use tollgate::{ApiKeys, AuthLayer, RequireLayer};
    /// use tower::{ServiceBuilder, ServiceExt, service_fn};
    ///
    /// let rules = Rules::new()
    ///     .route("GET /orders", scope("orders:read"))
    ///     .public("GET /health");
    /// let service = ServiceBuilder::new()
    ///     .layer(AuthLayer::new(ApiKeys::in_memory(Peppers::random())).optional_for(rules.public_routes()))
    ///     .layer(RequireLayer::new(rules))
    ///     .service(service_fn(|_: Request<()>| async {
    ///         Ok::<_, std::convert::Infallible>(Response::new(()))
    ///     }));
    ///
    /// for (path, status) in [("/health", 200), ("/orders", 401)] {
    ///     let response = service.clone().oneshot(Request::get(path).body(())?).await?;
    ///     assert_eq!(response.status(), status);
    /// }
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// # })?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn public_routes(&self) -> impl Fn(&Parts) -> bool + Send + Sync + 'static {
        let rules = self.clone();
        move |request| matches!(rules.ruling(request), Ruling::Public)
    }

    /// Returns the fewest scopes that a request needs, as a function: for
    /// [`AuthLayer::challenge_scopes_for`](crate::AuthLayer::challenge_scopes_for), so that every 401
    /// names them.
    ///
    /// ```
    /// use tollgate::authorize::{Rules, scope};
    /// use tollgate::keys::Peppers;
    /// use tollgate::{ApiKeys, AuthLayer, RequireLayer};
    ///
    /// let rules = Rules::new().route("GET /orders", scope("orders:read")).public("GET /health");
    /// let auth = AuthLayer::new(ApiKeys::in_memory(Peppers::random()))
    ///     .optional_for(rules.public_routes())
    ///     .challenge_scopes_for(rules.challenge_scopes());
    /// let require = RequireLayer::new(rules);
    /// ```
    pub fn challenge_scopes(&self) -> impl Fn(&Parts) -> Option<ScopeSet> + Send + Sync + 'static {
        let rules = self.clone();
        move |request| match rules.ruling(request) {
            Ruling::Requires(requirement) => {
                let scopes = ScopeSet::try_new(requirement.scopes_for_strangers()).ok();
                scopes.filter(|scopes| !scopes.is_empty())
            }
            Ruling::Public | Ruling::Nobody | Ruling::Ambiguous => None,
        }
    }

    /// Those of these routes that no rule is for, and for whom only
    /// [`otherwise`](Self::otherwise) would hold. A route without a method is one for
    /// all methods, and one for the rest of a path needs a rule for the rest. See
    /// [`testing::assert_covered`](crate::testing::assert_covered).
    ///
    /// # Panics
    /// If one of them is not a route.
    #[must_use]
    #[track_caller]
    pub fn uncovered<I>(&self, routes: I) -> Vec<String>
    where
        I: IntoIterator,
        I::Item: AsRef<str>,
    {
        let mut uncovered = Vec::new();
        for text in routes {
            let text = text.as_ref();
            let route = literal(parse(text));
            let node = self.exact.node_at(&route.example());
            let has_rule = node.is_some_and(|node| self.covers(node, &route));
            if !has_rule {
                uncovered.push(text.to_owned());
            }
        }
        uncovered
    }

    fn covers(&self, node: &Node, route: &Route) -> bool {
        let mut rules = node.rules.iter();
        let has_rule = match &route.method {
            Some(method) => self.by_method(&node.rules, method).is_some(),
            None => rules.any(|rule| self.rules[*rule].route.method.is_none()),
        };
        // What is for one segment is not for the segments after it.
        has_rule && (node.is_rest || !route.is_rest())
    }

    /// All rules, for people to read.
    #[must_use]
    pub fn report(&self) -> Report<'_> {
        Report(self)
    }

    pub(super) fn under(mut self, hierarchy: &Hierarchy) -> Self {
        for rule in &mut self.rules {
            if let Access::Requires(requirement) = &mut rule.access {
                *requirement = requirement.clone().under(hierarchy);
            }
        }
        self.otherwise = self
            .otherwise
            .map(|requirement| requirement.under(hierarchy));
        self
    }

    pub(super) fn ruling(&self, request: &Parts) -> Ruling<'_> {
        let path = request.uri.path();
        let exact = self.exact.at(path);
        let (fold, encoded_slash) = match Spelling::of(path) {
            Spelling::Ambiguous => return Ruling::Ambiguous,
            Spelling::Plain if self.tables_differ => (self.fold.at(path), false),
            Spelling::Plain => (exact, false),
            Spelling::Folds(fold) => (self.fold.at(&fold), false),
            Spelling::EncodedSlash(fold) => (self.fold.at(&fold), true),
        };
        let by_method = |node: Option<&[usize]>| node.map(|rules| self.by_request(rules, request));
        let rule = by_method(exact);
        let allows_slash = || matches!(rule, Some(Some(rule)) if self.rules[rule].encoded_slashes);
        if rule != by_method(fold) || (encoded_slash && !allows_slash()) {
            return Ruling::Ambiguous;
        }
        match (rule, &self.otherwise) {
            (Some(Some(rule)), _) => match &self.rules[rule].access {
                Access::Public => Ruling::Public,
                Access::Requires(requirement) => Ruling::Requires(requirement),
            },
            (None, Some(requirement)) => Ruling::Requires(requirement),
            (Some(None), _) | (None, None) => Ruling::Nobody,
        }
    }

    fn by_request(&self, rules: &[usize], request: &Parts) -> Option<usize> {
        let own = rules.iter().copied().find(|rule| {
            let method = self.rules[*rule].route.method.as_ref();
            method == Some(&request.method)
        });
        own.or_else(|| self.by_method(rules, rule_method(request)))
    }

    fn by_method(&self, rules: &[usize], method: &Method) -> Option<usize> {
        let ruled = |wanted: Option<&Method>| {
            let mut rules = rules.iter().copied();
            rules.find(|rule| self.rules[*rule].route.method.as_ref() == wanted)
        };
        let as_get = || (method == Method::HEAD).then(|| ruled(Some(&Method::GET)));
        ruled(Some(method))
            .or_else(|| as_get().flatten())
            .or_else(|| ruled(None))
    }

    fn add(mut self, text: &str, access: Access) -> Result<Self, ConfigError> {
        let route = parse(text)?;
        let refuse = |why: &str| ConfigError::new(format!("Rules: {text:?} {why}"));
        let overlaps = |_| {
            refuse(
                "overlaps another rule, and neither is more specific; name the routes one by one",
            )
        };
        let same_method = |table: &Table, path: &str| {
            let mut rules = table.own_rules(path).iter().copied();
            rules.find(|rule| self.rules[*rule].route.method == route.method)
        };
        if same_method(&self.exact, &route.exact).is_some() {
            return Err(refuse("has a rule already; remove one of them"));
        }
        let new = self.rules.len();
        let rule = match same_method(&self.fold, &route.fold) {
            None => {
                self.fold.insert(&route.fold, new).map_err(overlaps)?;
                new
            }
            // `/orders` and `/orders/` may both be there, if they say the same.
            Some(other) if self.rules[other].access.to_string() == access.to_string() => other,
            Some(_) => {
                return Err(refuse(
                    "contradicts a rule whose route differs only in its spelling; require the same",
                ));
            }
        };
        self.exact.insert(&route.exact, rule).map_err(overlaps)?;
        self.tables_differ |= route.exact != route.fold;
        self.rules.push(Rule {
            route,
            access,
            encoded_slashes: false,
        });
        Ok(self)
    }
}

fn parse(text: &str) -> Result<Route, ConfigError> {
    Route::parse(text)
        .map_err(|why| ConfigError::new(format!("Rules: {text:?} is not a route; {why}")))
}

impl Table {
    fn at(&self, path: &str) -> Option<&[usize]> {
        self.node_at(path).map(|node| &node.rules[..])
    }

    fn node_at(&self, path: &str) -> Option<&Node> {
        let found = self.router.at(path).ok()?;
        Some(&self.nodes[*found.value])
    }

    fn own_rules(&self, pattern: &str) -> &[usize] {
        let node = self.by_pattern.get(pattern).map(|node| &self.nodes[*node]);
        node.filter(|node| !node.is_lent)
            .map_or(&[], |node| &node.rules)
    }

    fn insert(&mut self, pattern: &str, rule: usize) -> Result<(), matchit::InsertError> {
        let node = self.node(pattern)?;
        if mem::take(&mut node.is_lent) {
            node.rules.clear();
        }
        node.rules.push(rule);
        node.is_rest = pattern.ends_with(REST);
        let Some(beginning) = pattern.strip_suffix(REST) else {
            return Ok(());
        };
        // The rest may be nothing, with the slash or without it.
        self.lend(&format!("{beginning}/"), rule)?;
        if beginning.is_empty() {
            return Ok(());
        }
        self.lend(beginning, rule)
    }

    /// Lets a rule hold for a path that has none of its own.
    fn lend(&mut self, pattern: &str, rule: usize) -> Result<(), matchit::InsertError> {
        let node = self.node(pattern)?;
        if node.rules.is_empty() || node.is_lent {
            node.is_lent = true;
            node.rules.push(rule);
        }
        Ok(())
    }

    fn node(&mut self, pattern: &str) -> Result<&mut Node, matchit::InsertError> {
        let index = match self.by_pattern.get(pattern) {
            Some(index) => *index,
            None => {
                let index = self.nodes.len();
                self.router.insert(pattern, index)?;
                self.by_pattern.insert(pattern.to_owned(), index);
                self.nodes.push(Node::default());
                index
            }
        };
        Ok(&mut self.nodes[index])
    }
}

impl fmt::Debug for Rules {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.report(), f)
    }
}

/// What [`Rules`] say, a line each: the route, and what it requires.
///
/// ```
/// use tollgate::authorize::{Rules, scope};
///
/// let rules = Rules::new().route("GET /orders/{id}", scope("orders:read")).public("/health");
/// let report = rules.report().to_string();
/// assert!(report.contains("GET /orders/{id}  scope(\"orders:read\")"));
/// assert!(report.ends_with("otherwise         denied"));
/// ```
#[derive(Clone, Copy, Debug)]
pub struct Report<'a>(&'a Rules);

impl<'a> Report<'a> {
    /// Each rule in the order in which it was declared: its route, and the requirement
    /// unless it is public.
    pub fn rules(self) -> impl Iterator<Item = (String, Option<&'a Requirement>)> {
        self.0.rules.iter().map(|rule| {
            let requirement = match &rule.access {
                Access::Public => None,
                Access::Requires(requirement) => Some(requirement),
            };
            (rule.route.to_string(), requirement)
        })
    }

    /// What is required where no rule is; nobody passes there if it is nothing.
    #[must_use]
    pub const fn otherwise(self) -> Option<&'a Requirement> {
        self.0.otherwise.as_ref()
    }
}

impl fmt::Display for Report<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let rules = &self.0.rules;
        let routes: Vec<_> = rules.iter().map(|rule| rule.route.to_string()).collect();
        let lengths = routes.iter().map(|route| route.chars().count());
        let width = lengths.max().unwrap_or(0).max("otherwise".len());
        for (route, rule) in routes.iter().zip(rules) {
            writeln!(f, "{route:width$}  {}", rule.access)?;
        }
        match &self.0.otherwise {
            Some(requirement) => write!(f, "{:width$}  {requirement}", "otherwise"),
            None => write!(f, "{:width$}  denied", "otherwise"),
        }
    }
}

impl fmt::Display for Access {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Public => f.write_str("public"),
            Self::Requires(requirement) => fmt::Display::fmt(requirement, f),
        }
    }
}
