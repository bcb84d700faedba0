//! Connections of tonic's server that are encrypted, and those that are not.

use std::net::SocketAddr;

use rcgen::{CertifiedKey, generate_simple_self_signed};
use tokio::net::TcpListener;
use tollgate::auth::HttpsOnlyLayer;
use tollgate::keys::{MemoryKeys, NewKey};
use tollgate::{ApiKeys, AuthLayer};
use tonic::transport::server::TcpIncoming;
use tonic::transport::{Certificate, ClientTlsConfig, Endpoint, Identity, Server, ServerTlsConfig};
use tonic::{Code, Status};
use tonic_types::StatusExt;

use crate::greeter::{Greeter, HELLO, call};
use crate::support::{clock, issue, keys_over};

/// A server whose clients come in clear, or over TLS if it has a certificate.
async fn serve(keys: ApiKeys, certificate: Option<&CertifiedKey<rcgen::KeyPair>>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let mut server = Server::builder();
    if let Some(certified) = certificate {
        let key = certified.signing_key.serialize_pem();
        let identity = Identity::from_pem(certified.cert.pem(), key);
        let tls = ServerTlsConfig::new().identity(identity);
        server = server.tls_config(tls).unwrap();
    }
    let server = server
        .layer(HttpsOnlyLayer::new())
        .layer(AuthLayer::new(keys).clock(clock()))
        .add_service(Greeter);
    tokio::spawn(server.serve_with_incoming(TcpIncoming::from(listener)));
    address
}

async fn hello(endpoint: Endpoint, key: &str) -> Result<String, Status> {
    let channel = endpoint.connect().await.unwrap();
    let mut texts = call(channel, HELLO, "you", Some(key)).await?.into_inner();
    Ok(texts.message().await?.unwrap().text)
}

#[tokio::test]
async fn a_connection_over_tls_is_one_and_its_peer_is_found() {
    let keys = keys_over(MemoryKeys::new());
    let here = issue(&keys, NewKey::for_owner("ann").networks(["127.0.0.0/8"])).await;
    let elsewhere = issue(&keys, NewKey::for_owner("bob").networks(["10.0.0.0/8"])).await;
    let certified = generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let address = serve(keys, Some(&certified)).await;
    let endpoint = || {
        let tls = ClientTlsConfig::new()
            .ca_certificate(Certificate::from_pem(certified.cert.pem()))
            .domain_name("localhost");
        let endpoint = Endpoint::from_shared(format!("https://{address}")).unwrap();
        endpoint.tls_config(tls).unwrap()
    };
    assert_eq!(hello(endpoint(), &here).await.unwrap(), "hello ann: you");
    let refused = hello(endpoint(), &elsewhere).await.unwrap_err();
    let info = refused.get_details_error_info().unwrap();
    assert_eq!(info.reason, "API_KEY_IP_ADDRESS_BLOCKED");
}

#[tokio::test]
async fn a_connection_in_clear_is_refused_whatever_is_shown() {
    let keys = keys_over(MemoryKeys::new());
    let key = issue(&keys, NewKey::for_owner("ann")).await;
    let address = serve(keys, None).await;
    for shown in [&*key, "acme_live_x"] {
        let endpoint = Endpoint::from_shared(format!("http://{address}")).unwrap();
        let refused = hello(endpoint, shown).await.unwrap_err();
        assert_eq!(refused.code(), Code::PermissionDenied);
        let info = refused.get_details_error_info().unwrap();
        assert_eq!(info.reason, "INSECURE_TRANSPORT");
    }
}
