//! Two nodes that share one budget, in Redis; and what becomes of it when Redis goes away.
//!
//! ```text
//! cargo run --example redis --features redis
//! ```
//!
//! It starts a `redis-server` of its own, unless `REDIS_URL` names one.

use std::convert::Infallible;
use std::error::Error;
use std::net::TcpListener;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use http::{Request, Response};
use tollgate::limit::{KeyBy, Quota, RateLimitLayer, RedisLimiter, WhenDown};
use tower::{Layer, ServiceExt, service_fn};

/// How many get through a node of ten that try at once. A real one serves requests, behind an
/// `AuthLayer`, and counts by the caller.
async fn knock(limiter: &RedisLimiter) -> Result<usize, Infallible> {
    let layer = RateLimitLayer::new(Quota::per_second(5).burst(12)).key(KeyBy::network());
    let node = layer
        .limiter(limiter.clone())
        .layer(service_fn(|_: Request<()>| async {
            Ok::<_, Infallible>(Response::new(()))
        }));
    let mut admitted = 0;
    for _ in 0..10 {
        let response = node.clone().oneshot(Request::new(())).await?;
        admitted += usize::from(response.status().is_success());
    }
    Ok(admitted)
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let (url, mut server) = match std::env::var("REDIS_URL") {
        Ok(url) => (url, None),
        Err(_) => start_redis()?,
    };
    let node = || -> Result<RedisLimiter, Box<dyn Error>> {
        let limiter = RedisLimiter::new(&url)?.name("example");
        let limiter = limiter.deadline(Duration::from_millis(200));
        // Each may admit a half, while it cannot ask.
        Ok(limiter.when_down(WhenDown::LocalShare { share: 1, of: 2 }))
    };
    let nodes = [node()?, node()?];
    let start = Instant::now();
    let round = async |what: &str| -> Result<(), Box<dyn Error>> {
        let admitted = [knock(&nodes[0]).await?, knock(&nodes[1]).await?];
        let statuses = nodes.each_ref().map(RedisLimiter::status);
        println!(
            "{:>5} ms  {what:<18} admitted {:>2} + {:>2} of 20; partitioned: {}, denied without asking: {}",
            start.elapsed().as_millis(),
            admitted[0],
            admitted[1],
            statuses.iter().any(|status| status.is_partitioned),
            statuses
                .iter()
                .map(|status| status.denied_locally)
                .sum::<u64>(),
        );
        Ok(())
    };

    println!("5 a second, 12 at once, for both nodes together");
    round("both at once").await?;
    tokio::time::sleep(Duration::from_secs(1)).await;
    round("a second later").await?;
    if let Some(Server(redis)) = &mut server {
        tokio::time::sleep(Duration::from_secs(3)).await;
        redis.kill()?;
        redis.wait()?;
        round("without Redis").await?;
    }
    Ok(())
}

/// Ended with the example.
struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn start_redis() -> Result<(String, Option<Server>), Box<dyn Error>> {
    let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
    let child = Command::new("redis-server")
        .args([
            "--bind",
            "127.0.0.1",
            "--save",
            "",
            "--port",
            &port.to_string(),
        ])
        .stdout(Stdio::null())
        .spawn()
        .map_err(|_| "redis-server is missing: install it, or set REDIS_URL")?;
    let server = Server(child);
    for _ in 0..100 {
        if std::net::TcpStream::connect(("127.0.0.1", port)).is_ok() {
            break;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok((format!("redis://127.0.0.1:{port}"), Some(server)))
}
