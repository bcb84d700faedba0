//! Who holds a credential that is not good any more is known to those who count, and to nobody
//! else. Row I5.

use std::time::Duration;

use http::Request;
use tollgate::auth::jwt::{Jwt, Resolved};
use tollgate::keys::NewKey;
use tollgate::rejection::Reason;
use tollgate::testing::TestIssuer;
use tollgate::usage::{End, Usage};
use tollgate::{AuthLayer, UsageLayer};
use tower::Layer;

use crate::keys::wrong_secret;
use super::ServiceBuilder;
use crate::support::{Answer, NOW, Script, Scripted, clock, keys_over, send, who};
use super::usage::watched;

const HOUR: Duration = Duration::from_secs(3_600);

#[track_caller]
fn tells_nobody(answer: &Answer, name: &str) {
    let printed = format!("{answer:?}");
    assert!(!printed.contains(name), "{printed}");
}

#[tokio::test]
async fn a_key_that_is_not_good_counts_for_its_owner() {
    for script in [Script::Now, Script::Later] {
        let keys = keys_over(Scripted::new(script));
        let clock = clock();
        let (usage, seen) = watched(Usage::builder());
        let service = ServiceBuilder::new()
            .layer(UsageLayer::new(usage.clone()))
            .layer(AuthLayer::new(keys.clone()).clock(clock.clone()))
            .service(who());
        let soon = NOW.saturating_add(HOUR);
        let issue = async |owner: &str| {
            let new = NewKey::for_owner(owner).expires_at(soon.saturating_add(HOUR));
            keys.issue(new).await.unwrap()
        };
        let late = NewKey::for_owner("scheduled-sue").not_before(soon);
        let late = keys.issue(late).await.unwrap();
        let revoked = issue("revoked-rob").await;
        keys.revoke(revoked.record.id).await.unwrap();
        let disabled = issue("disabled-dan").await;
        keys.disable(disabled.record.id).await.unwrap();
        let expired = issue("expired-eve").await;
        for (issued, reason) in [
            (&late, Reason::CredentialNotYetValid),
            (&revoked, Reason::CredentialRevoked),
            (&disabled, Reason::CredentialRevoked),
            (&expired, Reason::CredentialExpired),
        ] {
            if reason == Reason::CredentialExpired {
                clock.advance(3 * HOUR);
            }
            let ask = async |key: &str| {
                let request = Request::get("/").header("x-api-key", key);
                send(&service, request.body(()).unwrap()).await
            };
            let key = issued.key.expose();
            let answer = ask(key).await;
            let record = seen.next();
            let owner = &*issued.record.owner;
            assert_eq!(record.principal().unwrap().subject(), owner);
            let outcome = (record.end(), record.refusal());
            assert_eq!(outcome, (End::Refused, Some(reason)));
            assert_eq!(usage.of(record.principal().unwrap()).unwrap().refused(), 1);
            tells_nobody(&answer, owner);

            // Who does not have the secret is nobody, whatever the id.
            let answer = ask(&wrong_secret(key)).await;
            assert_eq!(answer.code(), "credential_invalid");
            assert!(seen.next().principal().is_none());
        }
    }
}

#[tokio::test]
async fn a_token_that_was_signed_and_is_not_good_counts_for_its_subject() {
    let clock = clock();
    let authority = TestIssuer::new("https://id.example.com/").clock(clock.clone());
    let (usage, seen) = watched(Usage::builder());
    let issuer = || {
        let issuer = Jwt::issuer(authority.url()).audience("api");
        issuer.keys(authority.keys())
    };
    let layer = UsageLayer::new(usage);
    let door = |jwt: Jwt| layer.layer(AuthLayer::new(jwt).clock(clock.clone()).layer(who()));
    let token = |audience: &str| {
        authority
            .token("ann-of-the-token")
            .audience(audience)
            .sign()
    };
    let bearer = |token: &str| {
        let request = Request::get("/").header("authorization", format!("Bearer {token}"));
        request.body(()).unwrap()
    };

    let banned = issuer().resolve_with(|_| async { Resolved::Denied });
    let banned = door(banned.build().unwrap());
    let answer = send(&banned, bearer(&token("api"))).await;
    tells_nobody(&answer, "ann-of-the-token");
    let record = seen.next();
    assert_eq!(record.principal().unwrap().subject(), "ann-of-the-token");
    assert_eq!(record.refusal(), Some(Reason::Forbidden));

    let service = door(issuer().build().unwrap());
    let (good, fresh, for_others) = (token("api"), token("api"), token("others"));
    assert_eq!(send(&service, bearer(&good)).await.status, 200);
    seen.next();
    clock.advance(24 * HOUR);
    // One that was seen when it was good, and one that was not.
    for token in [&good, &fresh] {
        let answer = send(&service, bearer(token)).await;
        tells_nobody(&answer, "ann-of-the-token");
        let record = seen.next();
        assert_eq!(record.principal().unwrap().subject(), "ann-of-the-token");
        assert_eq!(record.refusal(), Some(Reason::TokenExpired));
    }
    // What it says is not believed where it is for others, or nobody has signed it.
    let (signed, _) = fresh.rsplit_once('.').unwrap();
    let (_, signature) = for_others.rsplit_once('.').unwrap();
    for token in [&for_others, &format!("{signed}.{signature}")] {
        send(&service, bearer(token)).await;
        let record = seen.next();
        assert_eq!(record.refusal(), Some(Reason::TokenInvalid));
        assert!(record.principal().is_none());
    }
}
