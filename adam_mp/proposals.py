"""What to propose for an unknown name: a known one if it is spelt nearly so; for words of other tools, what they are
called here; else nothing.

A proposal that has only some letters in common with what was typed misleads more than silence.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from adam_mp.errors import flag_of, shown

_MOST_LISTED = 12  # known names: fewer are all listed if none is near

_NO_WEIGHTS = "a run cannot start from saved weights; --resume goes on with a run"
_NO_GPU = "adam_mp trains on the cores of CPUs, as many as --cores says"
_NO_PATIENCE = (
    "there is no early stopping by patience; --target-accuracy ends a run, and the best epoch's model is kept"
)
_FORMULA = "the learning rate's course is a formula, as in --lr '0.05 * warmup * cosine'"
_ORDER = "each epoch has an order of its own, drawn from --seed"
_LOSS = "the loss is always cross-entropy after softmax"
_FLOAT = "adam_mp trains in float32"
_NO_WEIGHTING = "all classes weigh the same"
_NO_CLIPPING = "gradients are clipped by their norm alone, with --clip-norm"
_WRITTEN = "metrics.jsonl and curves.png in the run folder have the figures"
_READ_AHEAD = "data servers work ahead by themselves; --data-servers says how many there are"
_NONE = "there is no such setting"

# Words by which other tools call a setting -> the settings of that meaning here, or a sentence where there are none.
_OF_OTHERS: tuple[tuple[str, tuple[str, ...] | str], ...] = (
    ("batch batches bs b minibatch minibatchsize batchsz trainbatchsize perdevicetrainbatchsize imagesperbatch",
     ("batch_size",)),
    ("workers numworkers nworkers nbworkers dataworkers dataloaderworkers dataloadernumworkers",
     ("cores", "data_servers")),
    ("processes nproc nprocs numprocesses nprocpernode procs jobs njobs j threads numthreads nthreads cpus "
     "ncpus numcpus cpu core ncores numcores parallel parallelism",
     ("cores",)),
    ("learningrate lrate eta lr0 initlr initiallr baselr maxlr learningrateinit steplength",
     ("lr",)),
    ("lrscheduler lrschedule lrschedulertype scheduler schedule lrdecay learningratedecay learningrateschedule "
     "warmup warmupsteps warmupepochs warmupratio cosine gamma stepsize lrstep lrgamma annealing onecycle",
     _FORMULA),
    ("wd l2 l2reg l2penalty l2regularization regularization decay weightdecayrate",
     ("weight_decay",)),
    ("maxepochs numepochs nepochs nbepoch numtrainepochs nbepochs e n passes iterations iters maxiter maxiters "
     "niter numiterations steps maxsteps numsteps trainsteps",
     ("epochs",)),
    ("o out output outputdir outputfolder outputpath outdir savedir savepath save saveto logdir logs log "
     "checkpointdir ckptdir workdir workingdir project dir modeldir exportdir experiment experimentname "
     "destination dest target",
     ("run_dir",)),
    ("checkpoint ckpt ckptpath resumefrom resumefromcheckpoint loadcheckpoint continue continuefrom restore "
     "restorefrom",
     ("resume",)),
    ("pretrained weights initweights initialweights finetune finetuning startfrom initfrom initialize "
     "loadweights loadmodel load transferlearning backboneweights",
     _NO_WEIGHTS),
    ("patience earlystopping earlystop earlystoppingpatience earlystoppingrounds stoppingpatience esp mindelta "
     "tol tolerance niternochange",
     _NO_PATIENCE),
    ("device devices gpu gpus cuda nocuda usegpu usecuda ngpu ngpus numgpus gpuids accelerator accelerators "
     "tpu mps xpu",
     _NO_GPU),
    ("precision amp fp16 bf16 half float16 bfloat16 mixedprecision dtype floatx",
     _FLOAT),
    ("architecture arch net network backbone modelname modeltype m",
     ("model",)),
    ("dataset datasets dataroot datadir datapath datafolder datasetdir datasetpath traindir traindata "
     "trainpath input inputdir inputs images imagedir imagefolder folder path root d source src",
     ("data",)),
    ("imgsize imgsz imsize inputsize inputshape imageshape resolution crop cropsize resize size width height",
     ("image_size",)),
    ("augmentation augmentations transform transforms aug dataaugmentation autoaugment randaugment",
     ("augment",)),
    ("valsplit validationsplit valfraction validationfraction val valratio valsize validationsize holdout "
     "testsplit testsize split valpercent",
     ("validation",)),
    ("optim opt solver algorithm optimizertype optimizername",
     ("optimizer",)),
    ("randomstate randomseed manualseed rngseed rng",
     ("seed",)),
    ("verbose verbosity silent loglevel v q progress progressbar",
     ("quiet",)),
    ("shuffle noshuffle",
     _ORDER),
    ("loss criterion lossfn lossfunction",
     _LOSS),
    ("classweight classweights sampleweight sampleweights weighted balanced",
     _NO_WEIGHTING),
    ("gradclip gradclipnorm gradientclip gradientclipping gradientclipval clip clipgrad clipgradnorm maxgradnorm "
     "maxnorm",
     ("clip_norm",)),
    ("clipvalue gradclipvalue clipgradvalue",
     _NO_CLIPPING),
    ("metrics tensorboard wandb logger mlflow",
     _WRITTEN),
    ("prefetch prefetchfactor pinmemory persistentworkers buffersize",
     _READ_AHEAD),
    ("nodes numnodes nnodes worldsize",
     ("servers", "replicas")),
    ("rank masteraddr masterport master distributed distbackend disturl",
     ("join",)),
    ("ps parameterservers numps nservers",
     ("servers",)),
    ("eps adamepsilon",
     ("epsilon",)),
    ("betas adambetas",
     ("beta1", "beta2")),
    ("rho adambeta2",
     ("beta2",)),
    ("mu",
     ("momentum",)),
    ("nesterov",
     "--optimizer nesterov is it"),
    ("cachesize cachedir cacheimages memory ram",
     ("cache",)),
    ("shm shmdir tmpdir tempdir scratch",
     ("memory_dir",)),
    ("port host address",
     ("join",)),
    ("saveevery savefreq savefrequency savesteps saveinterval checkpointevery checkpointfreq "
     "checkpointinterval",
     ("checkpoint_seconds",)),
    ("timeout",
     ("stall_seconds",)),
    ("retries maxretries maxrestarts",
     ("restarts",)),
    ("dropout dropoutrate droprate droppath",
     "dropout is a layer of the network, adam_mp.Dropout"),
    ("ema modelema emadecay swa swalr swaepochs averaging weightaveraging polyak",
     ("average",)),
    ("tta ttalevel testtimeaugmentation multicrop tencrop fivecrop crops ncrops",
     ("views",)),
    ("accumulate accumulategradbatches gradaccum gradientaccumulationsteps "
     "dampening autobatch sam compile jit",
     _NONE),
    ("labelsmooth smoothing smooth",
     ("label_smoothing",)),
    ("mixupalpha mix mixing mixalpha",
     ("mixup",)),
    ("cutmixalpha",
     ("cutmix",)),
    ("mixupprob cutmixprob mixprob mixupswitchprob mixupmode mixupoffepoch cutmixminmax",
     "--mixup and --cutmix take alpha; each batch is mixed, with either by equal odds if both are given"),
    ("freeze frozen freezelayers lrmult lrmults paramgroups layerwiselr discriminativelr",
     ("rates",)),
    ("classes numclasses nclasses nc labels channels inchannels numchannels",
     "adam_mp takes it from the data"),
)  # fmt: skip
_SETTINGS = {word: meant for words, meant in _OF_OTHERS for word in words.split()}
# The same for kinds of layers, for their settings, and for commands.
LAYERS = {
    **dict.fromkeys(("linear", "fc", "fullyconnected", "innerproduct", "affine"), "dense"),
    **dict.fromkeys(("conv2d", "conv2", "convolution", "convolution2d", "convolutional"), "conv"),
    **dict.fromkeys(("maxpool2d", "maxpooling", "maxpooling2d"), "max_pool"),
    **dict.fromkeys(("avgpool", "avgpool2d", "averagepooling", "averagepooling2d", "meanpool"), "average_pool"),
    **dict.fromkeys(("lrn", "localresponsenormalization"), "local_response_norm"),
    **dict.fromkeys(("rectifier", "rectifiedlinear", "activation"), "relu"),
    **dict.fromkeys(("gap", "globalavgpool", "globalavgpool2d", "globalaveragepooling", "globalaveragepooling2d",
                     "globalpool", "adaptiveavgpool2d", "adaptiveaveragepool"), "global_average_pool"),
    **dict.fromkeys(("concatenate", "concatenation", "cat", "branches", "inception", "parallel"), "concat"),
    **dict.fromkeys(("sum", "plus", "eltwise", "addition"), "add"),
    **dict.fromkeys(("resblock", "residualblock", "basicblock", "bottleneck", "skip", "shortcut"), "residual"),
    **dict.fromkeys(("bn", "norm", "batchnorm1d", "batchnorm2d", "batchnormalization"), "batch_norm"),
    **dict.fromkeys(("gn", "groupnormalization"), "group_norm"),
    **dict.fromkeys(("ln", "layernormalization"), "layer_norm"),
    **dict.fromkeys(("lrelu", "leaky", "prelu"), "leaky_relu"),
    **dict.fromkeys(("swish", "silu"), "silu"), "hswish": "hard_swish",
    **dict.fromkeys(("depthwiseconv", "depthwiseconv2d", "groupconv", "groupedconv"), "conv"),
    **dict.fromkeys(("mul", "times", "product", "multiplication"), "multiply"),
    **dict.fromkeys(("se", "seblock", "squeezeexcitation", "squeezeandexcite"), "squeeze_excite"),
    **dict.fromkeys(("droppath", "dropconnect"), "stochastic_depth"),
    "reshape": "flatten", "logsoftmax": "softmax", "dropout2d": "dropout", "logistic": "sigmoid",
}  # fmt: skip
LAYER_SETTINGS = {
    **dict.fromkeys(("filters", "kernels", "outchannels", "nfilters", "features", "maps", "depth"), "channels"),
    **dict.fromkeys(("kernelsize", "kernel", "ksize", "poolsize", "window", "filtersize", "k"), "size"),
    **dict.fromkeys(("outfeatures", "neurons", "nodes", "hidden", "width", "outputs", "numunits", "dim"), "units"),
    **dict.fromkeys(("p", "prob", "probability", "ratio", "droprate"), "rate"),
    **dict.fromkeys(("step", "subsample"), "stride"),
    **dict.fromkeys(("pad", "border"), "padding"), "usebias": "bias", "eps": "epsilon", "numgroups": "groups",
    **dict.fromkeys(("kernelinitializer", "initializer", "initialization", "weightinit", "winit"), "init"),
    "dilationrate": "dilation", **dict.fromkeys(("squeezechannels", "squeezefactor", "reduction"), "units"),
    **dict.fromkeys(("skip", "identity", "downsample"), "shortcut"),
    "k0": "offset", "bias0": "offset",
}  # fmt: skip
COMMANDS = {
    **dict.fromkeys(("fit", "run", "start", "learn", "training"), "train"),
    **dict.fromkeys(("test", "eval", "validate", "val", "score"), "evaluate"),
    **dict.fromkeys(("infer", "inference", "classify", "prediction", "detect"), "predict"),
    **dict.fromkeys(("info", "show", "summary", "describe", "view"), "inspect"),
    **dict.fromkeys(("benchmark", "speed"), "bench"),
    "ps": "serve-params", "version": "--version",
}  # fmt: skip


def bare(name: str) -> str:
    """Return a name without what spelling leaves open: case, hyphens, underscores, blanks."""
    return "".join(letter for letter in name.lower() if letter.isalnum())


def near(name: str, known: Iterable[str]) -> list[str]:
    """Return the known names, at most two, of which `name` is a misspelling.

    One or two letters may be wrong, one in a short name. What `name` begins is nearer than what differs by as much.
    """
    typed = bare(name)
    if len(typed) > 60 or not typed:
        return []
    found = sorted((_distance(typed, bare(each)), not bare(each).startswith(typed), each) for each in known)
    nearest_ones = [each for *how, each in found[:2] if how == list(found[0][:2])]
    return [each for each in nearest_ones if _distance(typed, bare(each)) <= _allowed(typed, bare(each))]


def _allowed(typed: str, known: str) -> int:
    shorter = min(len(typed), len(known))
    return 0 if shorter < 3 else 1 if shorter < 7 else 2


def _distance(one: str, other: str) -> int:
    """Return how many letters must be put in, left out, changed, or swapped with the next, to make `other` of `one`."""
    if abs(len(one) - len(other)) > 2:
        return 3
    before: list[int] = []
    row = list(range(len(other) + 1))
    for i, letter in enumerate(one, 1):
        before, last, row = row, before, [i]
        for j, wanted in enumerate(other, 1):
            cost = min(before[j] + 1, row[j - 1] + 1, before[j - 1] + (letter != wanted))
            if i > 1 and j > 1 and letter == other[j - 2] and one[i - 2] == wanted:
                cost = min(cost, last[j - 2] + 1)
            row.append(cost)
    return row[-1]


def _did_you_mean(names: Iterable[str]) -> str:
    return f"did you mean {' or '.join(repr(each) for each in names)}?"


def nearest(
    name: str, known: Iterable[str], most: int = _MOST_LISTED, of_others: Mapping[str, str] | None = None
) -> str:
    """Return `did you mean 'x'?` if `name` is nearly a known name; else list known names, at most `most`.

    `of_others`: words of other tools, without hyphens and capitals -> the known name of that meaning.
    """
    names = sorted(known)
    meant = (of_others or {}).get(bare(name))
    if close := [meant] if meant in names else near(name, names):
        return _did_you_mean(close)
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return "known: " + ", ".join(names[:most]) + more


def proposal(name: str, settings: Iterable[str], write: Callable[[str], str], others: Iterable[str] = ()) -> str:
    """Return what to say behind an unknown setting: "; did you mean 'x'?", "; a sentence", or "".

    `settings` are the names of the settings that can be given here, `write` how they are written here, `others` names
    that can be given here and are no settings, as they are written.
    """
    known = {write(each): each for each in settings}
    names = list(dict.fromkeys([*known, *others]))
    typed = bare(name)
    if exact := [each for each in names if bare(each) == typed]:
        return f"; {_did_you_mean(exact[:1])}"
    meant = _SETTINGS.get(typed, ())
    if isinstance(meant, str):
        flags = {flag_of(each) for each in known.values()}
        mentioned = [word.strip("',;)") for word in meant.split() if word.startswith("--")]
        return f"; {meant}" if all(flag in flags for flag in mentioned) else ""
    if proposed := [write(each) for each in meant if write(each) in names]:
        return f"; {_did_you_mean(proposed)}"
    close = near(name, names)
    return f"; {_did_you_mean(close)}" if close else ""


def unknown(what: str, name: str, settings: Iterable[str], write: Callable[[str], str] = str) -> str:
    """Return the message about an unknown setting; `what` says what it is, such as "setting"."""
    return f"unknown {what} {shown(name)}{proposal(name, settings, write)}"
