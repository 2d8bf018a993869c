/* Photographs to labels and regions through the C API:
 *   classify_c BUNDLE IMAGE... */
#include <edge/engine.h>
#include <stdio.h>

int main(int count, char** words) {
    edge_engine* engine = NULL;
    int failed = 0;
    if (count < 3) {
        fprintf(stderr, "usage: classify_c BUNDLE IMAGE...\n");
        return 2;
    }
    if (edge_engine_load(words[1], &engine)) {
        fprintf(stderr, "%s\n", edge_engine_error());
        return 1;
    }
    for (int i = 2; i < count; ++i) {
        edge_engine_prediction* found = NULL;
        if (edge_engine_predict_file(engine, words[i], -1.0f, &found)) {
            fprintf(stderr, "%s\n", edge_engine_error());
            failed = 1;
            continue;
        }
        printf("%s\n", words[i]);
        for (size_t j = 0; j < found->label_count; ++j)
            printf("  label %s %.6f\n", found->labels[j].name, found->labels[j].score);
        for (size_t j = 0; j < found->region_count; ++j) {
            const edge_engine_region* region = &found->regions[j];
            printf("  region %s %.6f %.4f %.4f %.4f %.4f\n", region->label, region->score, region->box[0],
                   region->box[1], region->box[2], region->box[3]);
        }
        edge_engine_prediction_free(found);
    }
    edge_engine_free(engine);
    return failed;
}
