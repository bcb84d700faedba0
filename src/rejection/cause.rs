//! [`Cause`]: which check failed.

macro_rules! causes {
    ($($(#[$doc:meta])* $name:ident = $text:literal,)*) => {
        /// Which check failed. For operators: a client must not learn it.
        #[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
        #[non_exhaustive]
        pub enum Cause { $($(#[$doc])* $name,)* }

        impl Cause {
            /// A stable name, fit for a metric's label.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$name => $text,)* }
            }
        }
    };
}

impl Cause {
    /// Whether somebody tried a secret and it was wrong, as one who guesses does.
    #[must_use]
    pub const fn is_failed_proof(self) -> bool {
        matches!(
            self,
            Self::KeyUnknown | Self::KeySecret | Self::TokenSignature
        )
    }
}

causes! {
    /// Nothing was shown.
    NothingShown = "nothing_shown",
    /// Only schemes that are not accepted were shown.
    OtherScheme = "other_scheme",
    /// `Authorization` has one word only: perhaps a credential without a scheme.
    NoScheme = "no_scheme",
    /// One carrier appears more than once.
    CarrierRepeated = "carrier_repeated",
    /// Several carriers have a credential.
    SeveralCarriers = "several_carriers",
    /// The carrier has no credential in it.
    EmptyCarrier = "empty_carrier",
    /// The credential is longer than the cap.
    TooLong = "too_long",
    /// The credential is not a `token68` (RFC 9110 §11.2).
    NotToken68 = "not_token68",
    /// `Basic` credentials are not a user name with an empty password.
    NotBasicUserName = "not_basic_user_name",
    /// Another site made a request with a cookie that may change something or opens a connection.
    CrossSite = "cross_site",
    /// A credential stands in the URI.
    InUri = "in_uri",
    /// Nobody claimed the credential by its shape.
    Unclaimed = "unclaimed",
    /// The key does not have the format of keys.
    KeyFormat = "key_format",
    /// The checksum of the key is wrong.
    KeyChecksum = "key_checksum",
    /// The key is of another prefix or environment.
    KeyOfAnotherSpace = "key_of_another_space",
    /// No key has this id.
    KeyUnknown = "key_unknown",
    /// The id is known, the secret is wrong.
    KeySecret = "key_secret",
    /// The key is scheduled.
    KeyNotYetValid = "key_not_yet_valid",
    /// The key expired.
    KeyExpired = "key_expired",
    /// The key is disabled.
    KeyDisabled = "key_disabled",
    /// The key was reported as compromised.
    KeyCompromised = "key_compromised",
    /// The owner of the key was removed.
    KeyOwnerRemoved = "key_owner_removed",
    /// The key was revoked.
    KeyRevoked = "key_revoked",
    /// The key was revoked, says a hook.
    KeyRevokedByHook = "key_revoked_by_hook",
    /// The key has a successor, and its grace is over.
    KeyRotatedOut = "key_rotated_out",
    /// The key was ended because it was sent in clear.
    KeyExposed = "key_exposed",
    /// The token does not have three segments, or one is not base64url.
    TokenStructure = "token_structure",
    /// The header of the token is not one, or asks for what is not supported.
    TokenHeader = "token_header",
    /// The algorithm of the token is not accepted from its issuer.
    TokenAlgorithm = "token_algorithm",
    /// The token is of another type.
    TokenType = "token_type",
    /// No key is for the token.
    TokenKeyUnknown = "token_key_unknown",
    /// The key that the token names is not known, and could not be looked up.
    TokenKeyUnavailable = "token_key_unavailable",
    /// The signature of the token is wrong.
    TokenSignature = "token_signature",
    /// The claims of the token are no claims, or one is missing.
    TokenClaims = "token_claims",
    /// The token is of an unknown issuer.
    TokenIssuer = "token_issuer",
    /// The token is for somebody else.
    TokenAudience = "token_audience",
    /// The token is not good yet, or from the future.
    TokenNotYetValid = "token_not_yet_valid",
    /// The token is older than it may be, or good for longer.
    TokenTooOld = "token_too_old",
    /// The token expired.
    TokenExpired = "token_expired",
    /// The token was revoked, says a hook.
    TokenRevoked = "token_revoked",
    /// The token is bound to another certificate or key.
    TokenBinding = "token_binding",
    /// The handler needs claims that the caller's credential does not have.
    ClaimsMissing = "claims_missing",
    /// There are no keys of the issuer to verify the token with.
    KeysUnavailable = "keys_unavailable",
    /// A hook that knows more of the subject refused.
    SubjectDenied = "subject_denied",
    /// A hook that knows more of the subject could not be asked.
    SubjectUnavailable = "subject_unavailable",
    /// The client, the method or the referrer is not one that the key is for.
    Restricted = "restricted",
    /// The store did not answer, or answered with an error.
    StoreUnavailable = "store_unavailable",
    /// The store did not answer in time.
    StoreTimeout = "store_timeout",
    /// A record names a pepper that is not configured.
    PepperUnknown = "pepper_unknown",
    /// Other credentials of the client's network were being verified for too long.
    TooManyVerifications = "too_many_verifications",
    /// The network of the client has too many failed credentials.
    NetworkThrottled = "network_throttled",
    /// The request came in cleartext.
    PlainTransport = "plain_transport",
    /// The transport of the request is unknown.
    TransportUnknown = "transport_unknown",
    /// A required scope is missing.
    ScopeMissing = "scope_missing",
    /// A required role, kind, tenant or attribute is missing.
    FactMissing = "fact_missing",
    /// No rule lets anybody call this route.
    RouteUnknown = "route_unknown",
    /// The path could be taken for another one, which another rule is for.
    PathAmbiguous = "path_ambiguous",
    /// The caller has used up a quota.
    QuotaExceeded = "quota_exceeded",
    /// The request costs more than the caller can ever have at once.
    CostTooHigh = "cost_too_high",
    /// The caller has too many requests under way.
    TooManyAtOnce = "too_many_at_once",
    /// The caller is banned for a while.
    Banned = "banned",
    /// The limiter could not be asked.
    LimiterUnavailable = "limiter_unavailable",
    /// A policy said no.
    PolicyDenied = "policy_denied",
    /// A policy could not decide.
    PolicyUnavailable = "policy_unavailable",
    /// A user's policy, store or hook panicked.
    Panicked = "panicked",
    /// The layers are not set up right.
    Misconfigured = "misconfigured",
    /// An implementation outside this crate refused.
    Other = "other",
}
