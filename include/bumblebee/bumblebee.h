// Everything a user of the library needs.
#pragma once

#include "bumblebee/adapter.h"
#include "bumblebee/benchmark.h"
#include "bumblebee/device.h"
#include "bumblebee/error.h"
#include "bumblebee/generation.h"
#include "bumblebee/generation_config.h"
#include "bumblebee/hub.h"
#include "bumblebee/log.h"
#include "bumblebee/model.h"
#include "bumblebee/prepare.h"
#include "bumblebee/repository.h"
#include "bumblebee/serving.h"
#include "bumblebee/tokenizer.h"
#include "bumblebee/train.h"
#include "bumblebee/train_record.h"
#include "bumblebee/version.h"
