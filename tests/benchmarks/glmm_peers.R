# A binomial model on a tree by R packages (Debian r-cran-mass, r-cran-nlme, r-cran-ape, r-cran-glmmtmb):
# y ~ binomial(trials, logit^-1(beta0 + beta1 x + u)), u ~ N(0, sigma2 A), A of the tips of a tree of height 1.
#
#   Rscript glmm_peers.R simulate SPECIES OUTDIR   writes tree.nwk and tips.csv (species, x, trials, y), of a fixed seed
#   Rscript glmm_peers.R fit PEER TREE TIPS        prints a line of JSON: seconds of the fit, estimates, peak memory
#
# Peers, none of which has a sparse precision of a tree:
#   pql           MASS::glmmPQL, u = Lv with A = LL' and v independent, one group: penalised quasi-likelihood
#   pql_brownian  MASS::glmmPQL with correlation = corBrownian: another model, A correlates the working residuals
#   tmb_factor    glmmTMB, u = Lv as diag() with one standard deviation: Laplace's method
#   tmb_reml      the same with REML = TRUE: beta is integrated out too
#   tmb_propto    glmmTMB, us() with every correlation fixed at A's, as propto() of glmmTMB >= 1.1.10 writes it
suppressMessages({library(ape); library(jsonlite)})
said <- commandArgs(TRUE)

simulate <- function(n, out) {
  set.seed(n)
  tree <- rcoal(n); tree$edge.length <- tree$edge.length / max(node.depth.edgelength(tree))
  dir.create(out, showWarnings = FALSE, recursive = TRUE)
  write.tree(tree, file.path(out, "tree.nwk"), digits = 17)
  u <- c(crossprod(chol(vcv(tree)), rnorm(n))); x <- round(rnorm(n), 4)
  tips <- data.frame(species = tree$tip.label, x = x, trials = 10L)
  tips$y <- rbinom(n, tips$trials, plogis(-0.5 + 0.5 * x + u))
  write.csv(tips, file.path(out, "tips.csv"), row.names = FALSE, quote = FALSE)
}

found <- function(beta, sigma2, ...)
  c(list(beta = unname(beta), sigma2 = unbox(unname(sigma2))), lapply(list(...), unbox))
# glmmPQL evaluates its arguments in a frame of its own: they are given as values
pql <- function(random, data, sigma, ...) suppressWarnings(do.call(MASS::glmmPQL, list(
  cbind(y, trials - y) ~ x, random = random, family = binomial, data = data, niter = 50, verbose = FALSE,
  control = nlme::lmeControl(returnObject = TRUE, sigma = sigma), ...)))
tmb <- function(formula, data, theta, map, ...) {
  fit <- glmmTMB::glmmTMB(formula, data, family = binomial, start = list(theta = theta), map = list(theta = map), ...)
  found(glmmTMB::fixef(fit)$cond, exp(2 * fit$fit$par[["theta"]]), loglik = -fit$fit$objective)
}
factor_form <- function(data, A, ...) {
  data$L <- t(chol(A)); n <- nrow(A)
  tmb(cbind(y, trials - y) ~ x + diag(0 + L | all), data, numeric(n), factor(rep(1, n)), ...)
}
peers <- list(
  pql = function(data, A, tree) {
    data$L <- t(chol(A))  # sigma = 1: left free, a dispersion would scale the binomial variance
    fit <- pql(list(all = nlme::pdIdent(~ L - 1)), data = data, sigma = 1)
    found(nlme::fixef(fit), as.numeric(nlme::VarCorr(fit)[1, 1]))
  },
  pql_brownian = function(data, A, tree) {
    fit <- pql(~ 1 | all, correlation = corBrownian(1, tree, form = ~ species | all), data = data, sigma = 0)
    found(nlme::fixef(fit), fit$sigma^2, between = as.numeric(nlme::VarCorr(fit)[1, 1]))
  },
  tmb_factor = function(data, A, tree) factor_form(data, A),
  tmb_reml = function(data, A, tree) factor_form(data, A, REML = TRUE),
  tmb_propto = function(data, A, tree) {
    n <- nrow(A); L <- t(chol(A)); L <- L / diag(L)  # rows of the unit triangle, as UNSTRUCTURED_CORR takes them
    data$species <- factor(data$species, data$species)
    tmb(cbind(y, trials - y) ~ x + us(0 + species | all), data, c(numeric(n), t(L)[upper.tri(L)]),
        factor(c(rep(1, n), rep(NA, n * (n - 1) / 2))))
  })

if (said[1] == "simulate") simulate(as.integer(said[2]), said[3]) else {
  tree <- read.tree(said[3]); tips <- read.csv(said[4]); tips$all <- factor(1); rownames(tips) <- tips$species
  stopifnot(said[2] %in% names(peers), setequal(tree$tip.label, tips$species))
  A <- vcv(tree)[tips$species, tips$species]
  stopifnot(abs(diag(A) - 1) < 1e-6)
  seconds <- system.time(result <- peers[[said[2]]](tips, A, tree))
  peak <- sub("\\D*(\\d+).*", "\\1", grep("VmHWM", readLines("/proc/self/status"), value = TRUE))
  cat(toJSON(c(list(peer = unbox(said[2]), species = unbox(nrow(A)), seconds = unbox(seconds[["elapsed"]]),
                    cpu = unbox(sum(seconds[c("user.self", "sys.self")])),
                    peak_mb = unbox(as.numeric(peak) / 1024)), result), digits = 8), "\n")
}
