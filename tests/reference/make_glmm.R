# Generalised linear mixed models by lme4, glmmTMB and ordinal (Debian r-cran-lme4, r-cran-glmmtmb, r-cran-ordinal,
# r-cran-mlmrev, r-cran-ape, r-cran-jsonlite), and by quadrature written out here.
# usage: Rscript make_glmm.R OUTDIR; writes glmm.json and the tables, prints the times of glmer and glmmTMB
#
# Every number is log p(y | parameters) with all its constants. Each Laplace value of a peer that claims to be one is held
# against `laplace` below, which is the definition: -2nd derivatives of log p(y|eta) by differences, dense matrices.
suppressMessages({library(lme4); library(glmmTMB); library(ordinal); library(jsonlite)})
out <- commandArgs(TRUE)[1]; dir.create(out, showWarnings = FALSE)
tight <- function(tol, first = TRUE) glmerControl(optimizer = "bobyqa", nAGQ0initStep = first, tolPwrss = tol,
  optCtrl = list(rhobeg = if (first) 0.02 else 1e-3, rhoend = 1e-9, maxfun = 1e6))
# the smallest tolerance of glmer's inner iterations at which its step halving does not give up
tightest <- function(f) for (tol in 10^-(13:7)) {
  r <- tryCatch(suppressWarnings(f(tol)), error = function(e) if (!grepl("halvings", conditionMessage(e))) stop(e))
  if (!is.null(r)) return(r)
}
data(Contraception, package = "mlmRev")
se <- function(V) unname(sqrt(diag(as.matrix(V))))

# log p(y|eta) of each row; phi is the size of nbinom2, the shape of gamma, the thresholds of ordinal
cumulative <- function(F) function(y, eta, phi, m) {
  cut <- c(-Inf, phi, Inf); log(F(cut[y + 1] - eta) - F(cut[y] - eta))
}
density <- list(
  "binomial logit" = function(y, eta, phi, m) dbinom(y, m, plogis(eta), log = TRUE),
  "binomial probit" = function(y, eta, phi, m) lchoose(m, y) + y * pnorm(eta, log.p = TRUE) + (m - y) * pnorm(-eta, log.p = TRUE),
  "poisson log" = function(y, eta, phi, m) dpois(y, exp(eta), log = TRUE),
  "nbinom2 log" = function(y, eta, phi, m) dnbinom(y, size = phi, mu = exp(eta), log = TRUE),
  "gamma log" = function(y, eta, phi, m) dgamma(y, shape = phi, rate = phi / exp(eta), log = TRUE),
  "ordinal logit" = cumulative(plogis), "ordinal probit" = cumulative(pnorm))
slope <- function(f, h = 0.02) (45 * (f(h) - f(-h)) - 9 * (f(2 * h) - f(-2 * h)) + f(3 * h) - f(-3 * h)) / (60 * h)
curve2 <- function(f, h = 0.02)
  (270 * (f(h) + f(-h)) - 27 * (f(2 * h) + f(-2 * h)) + 2 * (f(3 * h) + f(-3 * h)) - 490 * f(0)) / (180 * h^2)

# w ~ N(0, P^-1), flat where P is 0; log of the integral of p(y|offset + Ww) p(w) over w by Laplace's method
laplace <- function(ld, offset, W, P, logdet) {
  w <- numeric(ncol(W)); value <- function(w) sum(ld(offset + c(W %*% w))) - sum(w * (P %*% w)) / 2
  for (step in 1:200) {
    eta <- offset + c(W %*% w)
    g <- crossprod(W, slope(function(h) ld(eta + h))) - P %*% w
    H <- crossprod(W, -curve2(function(h) ld(eta + h)) * W) + P
    d <- c(solve(H, g)); s <- 1; while (s > 1e-6 && !isTRUE(value(w + s * d) >= value(w) - 1e-9)) s <- s / 2
    w <- w + s * d; if (max(abs(d)) < 1e-9) break
  }
  value(w) + logdet / 2 + sum(rowSums(P != 0) == 0) * log(2 * pi) / 2 - as.numeric(determinant(H)$modulus) / 2
}
# one factor: adaptive Gauss-Hermite quadrature of each level, in u = Lv, `order` points in each direction
quadrature <- function(ld, offset, Z, S, group, order) {
  L <- t(chol(S)); k <- ncol(Z); rule <- GHrule(order); grid <- as.matrix(expand.grid(rep(list(rule[, "z"]), k)))
  logw <- rowSums(matrix(log(rule[, "w"])[as.matrix(expand.grid(rep(list(seq_len(order)), k)))], ncol = k))
  sum(vapply(split(seq_along(group), group), function(i) {
    A <- Z[i, , drop = FALSE] %*% L; f <- function(v) sum(ld(offset + replace(numeric(length(offset)), i, A %*% v))[i]) - sum(v^2) / 2
    v <- numeric(k)
    for (step in 1:60) {
      eta <- offset; eta[i] <- eta[i] + A %*% v
      g <- crossprod(A, slope(function(h) ld(eta + h))[i]) - v
      H <- crossprod(A, -curve2(function(h) ld(eta + h))[i] * A) + diag(k)
      d <- c(solve(H, g)); s <- 1; while (s > 1e-6 && f(v + s * d) < f(v) - 1e-9) s <- s / 2
      v <- v + s * d; if (max(abs(d)) < 1e-9) break
    }
    R <- backsolve(chol(H), t(grid)); terms <- vapply(seq_len(ncol(R)), function(j) f(v + R[, j]), 0)
    terms <- terms + logw + rowSums(grid^2) / 2; top <- max(terms)
    top + log(sum(exp(terms - top))) - sum(log(diag(chol(H))))
  }, 0))
}

# theta of lme4 (relative Cholesky factors, by column) and of glmmTMB (log sd, then rho / sqrt(1 - rho^2)) from matrices
lme4_theta <- function(S) unlist(lapply(S, function(S) { L <- t(chol(S)); L[lower.tri(L, TRUE)] }))
tmb_theta <- function(S) unlist(lapply(S, function(S) {
  r <- cov2cor(S)[lower.tri(S)]; c(log(sqrt(diag(S))), r / sqrt(1 - r^2)) }))
frame <- function(formula, data, known) {  # designs by lme4's parser, its terms in its order
  lf <- glFormula(formula, data, family = known); k <- lengths(lf$reTrms$cnms)
  list(X = lf$X, Zt = lf$reTrms$Zt, groups = names(k), effects = unname(lf$reTrms$cnms), k = k, flist = lf$reTrms$flist,
       Gp = lf$reTrms$Gp, offset = { o <- model.offset(lf$fr); if (is.null(o)) numeric(nrow(lf$X)) else o }, y = model.response(lf$fr))
}
precision <- function(fr, S) as.matrix(Matrix::bdiag(lapply(seq_along(S), function(j)
  Matrix::bdiag(rep(list(solve(S[[j]])), (fr$Gp[j + 1] - fr$Gp[j]) / fr$k[j])))))
same <- function(what, a, b, tol) {
  if (!isTRUE(abs(a - b) < tol)) stop(sprintf("%s: %.10f and %.10f", what, a, b), call. = FALSE)
}

case <- function(name, data, table, formula, family, link) {
  cat(name, "\n"); known <- list(binomial = binomial(link), poisson = poisson(), gamma = Gamma("log"), nbinom2 = poisson())[[family]]
  tmb <- if (family == "nbinom2") nbinom2() else known
  fr <- frame(formula, table, if (family == "gamma") gaussian() else known); X <- fr$X; p <- ncol(X); y <- fr$y; m <- 1
  if (is.matrix(y)) { m <- rowSums(y); y <- y[, 1] } else if (is.factor(y)) y <- as.numeric(y) - 1
  ldf <- density[[paste(family, link)]]; Z <- t(as.matrix(fr$Zt))
  one <- length(fr$groups) == 1; scalar <- one && fr$k == 1; canonical <- family == "poisson" || link == "logit"
  matrices <- function(theta) { i <- 0; lapply(unname(fr$k), function(k) { n <- k * (k + 1) / 2
    L <- matrix(0, k, k); L[lower.tri(L, TRUE)] <- theta[i + seq_len(n)]; i <<- i + n; tcrossprod(L) }) }
  has_glmer <- !family %in% c("nbinom2", "gamma")
  row <- list(name = unbox(name), data = unbox(data), formula = unbox(deparse1(formula)), family = unbox(family), link = unbox(link),
              groups = fr$groups, effects = fr$effects, coef = colnames(X))

  # glmmTMB: its objective is -log p of (beta, log phi, theta); with REML = TRUE beta is among the effects
  control <- glmmTMBControl(optCtrl = list(iter.max = 1e4, eval.max = 1e4, rel.tol = 1e-14, x.tol = 1e-12))
  fits <- lapply(c(FALSE, TRUE), function(REML) suppressWarnings(glmmTMB(formula, table, family = tmb, REML = REML, control = control)))
  order_tmb <- match(fr$groups, names(fits[[1]]$modelInfo$reTrms$cond$flist)[fits[[1]]$modelInfo$reTrms$cond |> (\(r) attr(r$flist, "assign"))()])
  back <- order(order_tmb)   # matrices in glmmTMB's order are S[back]
  for (j in 1:2) {
    o <- fits[[j]]$obj; par <- fits[[j]]$fit$par
    for (step in 1:4) { H <- optimHess(par, o$fn, o$gr); d <- c(solve(H, c(o$gr(par)))); if (o$fn(par - d) <= o$fn(par) + 1e-9) par <- par - d }
    sdr <- TMB::sdreport(o, par); n <- names(par); vc <- VarCorr(fits[[j]])$cond
    k <- unname(fr$k[back]); i <- 0; th <- par[n == "theta"]
    S <- lapply(k, function(k) { s <- exp(th[i + seq_len(k)]); C <- diag(k)
      if (k == 2) { t <- th[i + 3]; C[1, 2] <- C[2, 1] <- t / sqrt(1 + t^2) }; i <<- i + k * (k + 1) / 2; diag(s, k) %*% C %*% diag(s, k) })[order_tmb]
    stopifnot(all(abs(unlist(S) - unlist(lapply(vc[order_tmb], c))) < 2e-3 * max(1, abs(unlist(S)))))
    ran <- summary(sdr, "random"); fix <- summary(sdr, "fixed"); from <- if (j == 1) fix else ran
    row[[c("glmmTMB", "glmmTMB_REML")[j]]] <- list(
      loglik = unbox(-o$fn(par)), beta = unname(from[rownames(from) == "beta", 1]), se = unname(from[rownames(from) == "beta", 2]),
      covariances = S, phi = if ("betad" %in% n) unbox(exp(unname(par["betad"]))),
      log_phi_se = if ("betad" %in% n) unbox(unname(fix["betad", 2])), theta_se = unname(fix[rownames(fix) == "theta", 2]),
      gradient = unbox(max(abs(o$gr(par)))))
  }
  best <- row$glmmTMB; phi0 <- best$phi; start <- lme4_theta(best$covariances); beta0 <- best$beta

  if (has_glmer) {
    estimate <- function(n) tightest(function(tol) {
      fit <- glmer(formula, table, family = known, control = tight(tol), nAGQ = n)
      again <- update(fit, start = list(theta = getME(fit, "theta"), fixef = fixef(fit)), control = tight(tol, FALSE))
      if (logLik(again) > logLik(fit)) fit <- again
      list(fit = fit, dev = update(fit, devFunOnly = TRUE), tol = tol)
    })
    one_point <- estimate(1); fit <- one_point$fit; dev <- one_point$dev
    glmer_row <- function(fit, constant = 0) list(
      loglik = unbox(as.numeric(logLik(fit)) + constant), deviance = unbox(deviance(fit)), theta = unname(getME(fit, "theta")),
      covariances = matrices(getME(fit, "theta")), beta = unname(fixef(fit)), se = se(vcov(fit, use.hessian = TRUE)),
      se_given_theta = se(vcov(fit, use.hessian = FALSE)), modes = lapply(ranef(fit, condVar = FALSE), function(r) list(levels = rownames(r)[1:3], u = unname(as.matrix(r)[1:3, , drop = FALSE]))))
    row$glmer <- suppressWarnings(glmer_row(fit)); row$glmer$tolerance <- unbox(one_point$tol)
    if (scalar) {
      # of nAGQ > 1 lme4 sums deviances: the log-likelihood of the saturated model is left out of logLik
      constant <- sum(if (family == "poisson") dpois(y, y, log = TRUE) else dbinom(y, m, y / m, log = TRUE))
      many <- estimate(25); dev25 <- many$dev
      row$glmer25 <- suppressWarnings(glmer_row(many$fit, constant)); row$glmer25$printed <- unbox(as.numeric(logLik(many$fit)))
      row$glmer25$tolerance <- unbox(many$tol)
    }
    if (canonical) { start <- getME(fit, "theta"); beta0 <- fixef(fit) }
    f <- formula; timed <- function(g) median(vapply(1:5, function(i) system.time(suppressWarnings(suppressMessages(g())))[["elapsed"]], 0))
    cat(sprintf("  seconds: glmer %.2f", timed(function() glmer(f, table, family = known))))
    if (scalar) cat(sprintf(", nAGQ = 25 %.2f", timed(function() glmer(f, table, family = known, nAGQ = 25))))
    cat(sprintf(", glmmTMB %.2f\n", timed(function() glmmTMB(f, table, family = tmb))))
  }

  # the same parameters to all: the estimate, smaller variances, larger ones with other correlations
  step <- row$glmmTMB$se * rep_len(c(1, -1), p); wave <- rep_len(c(1.5, 0.6, 1.3), length(start)); if (scalar || !one) wave[] <- 1.6
  points <- list(list(start, beta0, 1), list(0.6 * start, beta0 + 0.5 * step, 1.4), list(wave * start, beta0 - step, 0.7))
  row$points <- lapply(points, function(point) {
    theta <- round(unname(point[[1]]), 6); beta <- round(unname(point[[2]]), 6); phi <- if (!is.null(phi0)) round(as.numeric(phi0) * point[[3]], 6)
    S <- matrices(theta); P <- precision(fr, S); logdet <- as.numeric(determinant(P)$modulus)
    ld <- function(eta) ldf(y, eta, phi, m)
    direct <- laplace(ld, fr$offset + c(X %*% beta), Z, P, logdet)
    direct_reml <- laplace(ld, fr$offset, cbind(X, Z), as.matrix(Matrix::bdiag(matrix(0, p, p), P)), logdet)
    tt <- tmb_theta(S[back]); lp <- if (!is.null(phi)) log(phi)
    r <- list(theta = theta, covariances = S, beta = beta, phi = if (!is.null(phi)) unbox(phi),
              laplace_glmmTMB = unbox(-c(fits[[1]]$obj$fn(c(beta, lp, tt)))), laplace_reml = unbox(-c(fits[[2]]$obj$fn(c(lp, tt)))))
    same("glmmTMB", r$laplace_glmmTMB, direct, 1e-6); same("glmmTMB, REML", r$laplace_reml, direct_reml, 1e-6)
    if (has_glmer) r$laplace_glmer <- unbox(dev(c(theta, beta)) / -2)
    if (has_glmer && canonical) same("glmer", r$laplace_glmer, direct, 1e-6)
    if (one) {
      zi <- if (scalar) matrix(1, length(y), 1) else model.matrix(~urban, table)
      at <- function(n) quadrature(ld, fr$offset + c(X %*% beta), zi, S[[1]], fr$flist[[1]], n)
      r$quadrature <- unbox(at(if (scalar) 61 else 21))
      same("quadrature of fewer points", r$quadrature, at(if (scalar) 41 else 15), 1e-6)
      if (has_glmer && scalar) { r$agq25_glmer <- unbox(dev25(c(theta, beta)) / -2 + constant); same("glmer, nAGQ = 25", r$agq25_glmer, r$quadrature, 1e-5) }
    }
    r
  })
  row
}

# clmm: P(y <= k) = F(threshold_k - eta); parameters are thresholds, beta, log sd
ordinal_case <- function(link) {
  name <- paste0("wine_", link); cat(name, "\n"); formula <- rating ~ temp + contact + (1 | judge)
  X <- model.matrix(~ temp + contact, wine)[, -1]; y <- as.integer(wine$rating); Z <- model.matrix(~ 0 + judge, wine)
  objective <- function(n) { rho <- clmm(formula, data = wine, link = link, nAGQ = n, doFit = FALSE, 
      control = clmm.control(gradTol = 1e-11, maxIter = 500, innerCtrl = "noWarn"))  # which rounding does not always let it reach
    function(par) (if (n == 1) ordinal:::getNLA.ssr else ordinal:::getNAGQ.ssr)(rho, par) }
  fit <- function(n) {
    f <- clmm(formula, data = wine, link = link, nAGQ = n); o <- objective(n)
    par <- nlminb(c(coef(f), log(f$ST[[1]][1])), o, control = list(rel.tol = 1e-15, x.tol = 1e-12))$par
    H <- ordinal:::deriv12(o, par)
    par <- par - c(solve(H$Hessian, H$gradient)); H <- ordinal:::deriv12(o, par); V <- se(solve(H$Hessian))
    list(loglik = unbox(-o(par)), thresholds = unname(par[1:4]), beta = unname(par[5:6]), sd = unbox(exp(unname(par[7]))),
         se = V[1:6], log_sd_se = unbox(V[7]), modes = list(judge = list(levels = levels(wine$judge)[1:3], u = unname(head(f$ranef, 3)))), gradient = unbox(max(abs(H$gradient))))
  }
  one <- fit(1); row <- list(name = unbox(name), data = unbox("wine.csv"), formula = unbox(deparse1(formula)), family = unbox("ordinal"),
    link = unbox(link), groups = "judge", effects = list("(Intercept)"), coef = colnames(X), clmm = one, clmm25 = fit(25))
  start <- c(one$thresholds, one$beta, log(one$sd)); o1 <- objective(1); o25 <- objective(25)
  row$points <- lapply(list(start, start + c(-0.4, -0.1, 0.2, 0.5, 0.3, -0.3, log(0.6)), start + c(0.3, 0, 0, -0.2, -0.5, 0.4, log(1.6))), function(par) {
    par <- round(par, 6); sd <- exp(par[7]); ld <- function(eta) density[[paste("ordinal", link)]](y, eta, par[1:4], 1)
    offset <- c(X %*% par[5:6]); q <- ncol(Z)
    r <- list(thresholds = par[1:4], beta = par[5:6], covariances = list(matrix(sd^2)), laplace_clmm = unbox(-o1(par)), agq25_clmm = unbox(-o25(par)),
              quadrature = unbox(quadrature(ld, offset, matrix(1, length(y), 1), matrix(sd^2), wine$judge, 61)))
    # no peer integrates beta out here: by the definition alone, thresholds and sd given
    r$laplace_reml <- unbox(laplace(ld, numeric(length(y)), cbind(X, Z), diag(c(0, 0, rep(1 / sd^2, q))), -2 * q * log(sd)))
    same("clmm", r$laplace_clmm, laplace(ld, offset, Z, diag(q) / sd^2, -2 * q * log(sd)), 1e-6)
    same("clmm, nAGQ = 25", r$agq25_clmm, r$quadrature, 1e-6)
    r
  })
  row
}

# a tree: u ~ N(0, sd^2 A) of the tips as Lv, A = LL', by glmmTMB with one standard deviation for all v
tree_case <- function() {
  cat("tree_logit\n"); set.seed(60); n <- 60
  tree <- ape::rcoal(n); tree$edge.length <- tree$edge.length / max(ape::node.depth.edgelength(tree))
  tree$edge.length <- round(tree$edge.length, 6); ape::write.tree(tree, file.path(out, "glmm_tree.nwk"))
  u <- c(crossprod(chol(ape::vcv(tree)), rnorm(n))); d <- data.frame(species = tree$tip.label, x = round(rnorm(n), 4), trials = 10L)
  d$y <- rbinom(n, d$trials, plogis(-0.5 + 0.5 * d$x + u))
  write.csv(d, file.path(out, "glmm_tree.csv"), row.names = FALSE, quote = FALSE)
  tree <- ape::read.tree(file.path(out, "glmm_tree.nwk")); A <- ape::vcv(tree)[d$species, d$species]; d$L <- t(chol(A)); d$all <- factor(1)
  fits <- lapply(c(FALSE, TRUE), function(REML) glmmTMB(cbind(y, trials - y) ~ x + diag(0 + L | all), d, family = binomial, REML = REML,
    start = list(theta = numeric(n)), map = list(theta = factor(rep(1, n)))))
  row <- list(name = unbox("tree_logit"), data = unbox("glmm_tree.csv"), tree = unbox("glmm_tree.nwk"),
    formula = unbox("cbind(y, trials - y) ~ x + species, of covariance sd^2 A"), family = unbox("binomial"), link = unbox("logit"),
    groups = "species", effects = list("(Intercept)"), coef = c("(Intercept)", "x"))
  for (j in 1:2) {
    o <- fits[[j]]$obj; par <- fits[[j]]$fit$par
    for (step in 1:4) par <- par - c(solve(optimHess(par, o$fn, o$gr), c(o$gr(par))))
    sdr <- TMB::sdreport(o, par); from <- summary(sdr, if (j == 1) "fixed" else "random"); b <- rownames(from) == "beta"
    row[[c("glmmTMB", "glmmTMB_REML")[j]]] <- list(loglik = unbox(-o$fn(par)), beta = unname(from[b, 1]), se = unname(from[b, 2]),
      covariances = list(matrix(exp(2 * par[["theta"]]))), theta_se = unname(summary(sdr, "fixed")["theta", 2]), gradient = unbox(max(abs(o$gr(par)))))
  }
  X <- cbind(1, d$x); ld <- function(eta) density[["binomial logit"]](d$y, eta, NULL, d$trials); Q <- solve(A); logdet <- as.numeric(determinant(Q)$modulus)
  best <- row$glmmTMB
  row$points <- lapply(list(list(1, 0), list(0.6, 0.5), list(1.6, -1)), function(point) {
    sd <- round(sqrt(best$covariances[[1]][1]) * point[[1]], 6); beta <- round(best$beta + point[[2]] * best$se, 6); P <- Q / sd^2
    r <- list(covariances = list(matrix(sd^2)), beta = beta, laplace_glmmTMB = unbox(-c(fits[[1]]$obj$fn(c(beta, log(sd))))),
              laplace_reml = unbox(-c(fits[[2]]$obj$fn(log(sd)))))
    same("tree", r$laplace_glmmTMB, laplace(ld, c(X %*% beta), diag(n), P, logdet - 2 * n * log(sd)), 1e-6)
    same("tree, REML", r$laplace_reml, laplace(ld, numeric(n), cbind(X, diag(n)), as.matrix(Matrix::bdiag(matrix(0, 2, 2), P)), logdet - 2 * n * log(sd)), 1e-6)
    r
  })
  row
}

set.seed(18)
gamma_data <- data.frame(group = factor(rep(1:30, each = 6)), x = round(rnorm(180), 3))
gamma_data$y <- signif(rgamma(180, shape = 2.5, rate = 2.5 / exp(1 + 0.5 * gamma_data$x + rnorm(30, 0, 0.6)[gamma_data$group])), 5)
salamanders <- transform(Salamanders, site = factor(as.character(site)))
tables <- list(cbpp = cbpp[c("herd", "period", "incidence", "size")], grouseticks = grouseticks[c("INDEX", "TICKS", "BROOD", "HEIGHT", "YEAR", "LOCATION")],
  contraception = Contraception[c("district", "use", "livch", "age", "urban")], wine = wine[c("rating", "temp", "contact", "judge")],
  salamanders = salamanders[c("site", "mined", "spp", "cover", "DOP", "Wtemp", "count")], gamma = gamma_data)
for (n in names(tables)) write.csv(tables[[n]], file.path(out, paste0(n, ".csv")), row.names = FALSE, quote = FALSE)
read <- function(n, ...) read.csv(file.path(out, paste0(n, ".csv")), stringsAsFactors = TRUE, ...)
herds <- transform(read("cbpp"), herd = factor(herd), period = factor(period))
ticks <- transform(read("grouseticks"), INDEX = factor(INDEX), BROOD = factor(BROOD), YEAR = factor(YEAR), LOCATION = factor(LOCATION))
women <- transform(read("contraception"), district = factor(district)); sal <- read("salamanders")
gam <- transform(read("gamma"), group = factor(group))
f_herds <- cbind(incidence, size - incidence) ~ period + (1 | herd)
f_women <- use ~ age + I(age^2) + urban + livch + (1 | district)
f_slope <- use ~ age + I(age^2) + urban + livch + (1 + urban | district)
cases <- list(
  case("cbpp_logit", "cbpp.csv", herds, f_herds, "binomial", "logit"),
  case("cbpp_probit", "cbpp.csv", herds, f_herds, "binomial", "probit"),
  case("grouseticks", "grouseticks.csv", ticks, TICKS ~ YEAR + scale(HEIGHT) + (1 | BROOD) + (1 | INDEX) + (1 | LOCATION), "poisson", "log"),
  case("contraception_logit", "contraception.csv", women, f_women, "binomial", "logit"),
  case("contraception_probit", "contraception.csv", women, f_women, "binomial", "probit"),
  case("contraception_slope_logit", "contraception.csv", women, f_slope, "binomial", "logit"),
  case("contraception_slope_probit", "contraception.csv", women, f_slope, "binomial", "probit"),
  case("salamanders_poisson_offset", "salamanders.csv", sal, count ~ mined + cover + offset(0.3 * DOP) + (1 | site), "poisson", "log"),
  case("salamanders_nbinom2", "salamanders.csv", sal, count ~ spp + mined + (1 | site), "nbinom2", "log"),
  case("gamma_log", "gamma.csv", gam, y ~ x + (1 | group), "gamma", "log"),
  ordinal_case("logit"), ordinal_case("probit"), tree_case())
software <- lapply(c(lme4 = "lme4", glmmTMB = "glmmTMB", ordinal = "ordinal"), function(p) unbox(as.character(packageVersion(p))))
write_json(list(software = software, cases = cases), file.path(out, "glmm.json"), digits = NA, null = "null", pretty = FALSE)
