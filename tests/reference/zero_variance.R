# t and F tests by pbkrtest and lmerTest where an estimated variance is 0 (Debian r-cran-pbkrtest, r-cran-lmertest).
# usage: Rscript zero_variance.R OUTDIR; writes zero_variance.csv (the data) and zero_variance.json
suppressMessages({library(lme4); library(pbkrtest); library(lmerTest); library(jsonlite)})
out <- commandArgs(TRUE)[1]
ctl <- lmerControl(optimizer = "bobyqa", optCtrl = list(rhoend = 1e-10, maxfun = 1e6), check.conv.singular = "ignore")
case <- function(name, data, formula, hypotheses) {
  fit <- lmerTest::lmer(formula, data, control = ctl)
  L <- diag(length(fixef(fit)))
  s <- function(ddf) { t <- coef(summary(fit, ddf = ddf)); list(se = t[, "Std. Error"], df = t[, "df"]) }
  full <- as(fit, "lmerMod")
  tests <- lapply(hypotheses, function(rows) {
    M <- L[rows, , drop = FALSE]
    kr <- KRmodcomp(full, M)$test
    sat <- contestMD(fit, M, ddf = "Satterthwaite")
    list(rows = rows - 1L, kr_F = kr["Ftest", "stat"], kr_df = kr["Ftest", "ddf"], kr_p = kr["Ftest", "p.value"],
         sat_F = sat[["F value"]], sat_df = sat[["DenDF"]])
  })
  v <- as.data.frame(VarCorr(fit))
  list(name = unbox(name), formula = unbox(paste(deparse(formula), collapse = "")), terms = v$grp, variances = v$vcov,
       beta = unname(fixef(fit)), kenward_roger = lapply(s("Kenward-Roger"), unname),
       satterthwaite = lapply(s("Satterthwaite"), unname), tests = tests)
}
set.seed(11)
g <- rep(1:9, c(4, 5, 3, 6, 4, 5, 2, 7, 4)); n <- length(g); h <- rep_len(1:5, n)
x <- round(rnorm(n), 4); treatment <- letters[1 + g %% 3]
make <- function(y) round(y, 6)
unbalanced <- NULL
repeat { e <- rnorm(n); e <- resid(lm(e ~ factor(g))); y <- make(2 + x + e + 0.1 * rnorm(n))
  f <- lmer(y ~ x + treatment + (1 | g), control = ctl); if (isSingular(f)) { unbalanced <- y; break } }
crossed <- NULL
repeat { e <- rnorm(n); e <- resid(lm(e ~ factor(h))); y <- make(1 + 0.5 * x + rnorm(9)[g] + e)
  f <- lmer(y ~ x + (1 | g) + (1 | h), control = ctl)
  if (VarCorr(f)$h[1] < 1e-12 && VarCorr(f)$g[1] > 0.1) { crossed <- y; break } }
nested <- NULL
repeat { y <- make(1 + x + rnorm(9)[g] + rnorm(n))
  f <- lmer(y ~ treatment + (1 | g) + (1 | g:h), control = ctl)
  if (VarCorr(f)$`g:h`[1] < 1e-12 && VarCorr(f)$g[1] > 0.1) { nested <- y; break } }
both <- NULL
repeat { e <- resid(lm(rnorm(n) ~ factor(g) + factor(h))); y <- make(1 + 0.3 * x + e)
  f <- lmer(y ~ x + (1 | g) + (1 | h), control = ctl)
  if (VarCorr(f)$h[1] < 1e-12 && VarCorr(f)$g[1] < 1e-12) { both <- y; break } }
d <- data.frame(g, h, x, treatment, unbalanced, crossed, nested, both)
write.csv(d, file.path(out, "zero_variance.csv"), row.names = FALSE, quote = FALSE)
d$g <- factor(d$g); d$h <- factor(d$h)
results <- list(
  case("dyestuff2", Dyestuff2, Yield ~ 1 + (1 | Batch), list(1)),
  case("unbalanced", d, unbalanced ~ x + treatment + (1 | g), list(2, 3:4, 2:4)),
  case("crossed", d, crossed ~ x + (1 | g) + (1 | h), list(2)),
  case("nested", d, nested ~ treatment + (1 | g) + (1 | g:h), list(2, 2:3)),
  case("both", d, both ~ x + (1 | g) + (1 | h), list(2)))
software <- sprintf("lme4 %s, pbkrtest %s, lmerTest %s", packageVersion("lme4"), packageVersion("pbkrtest"), packageVersion("lmerTest"))
write(toJSON(list(software = unbox(software), cases = results), digits = 15, pretty = TRUE), file.path(out, "zero_variance.json"))
