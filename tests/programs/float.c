/* Scalar double arithmetic: planets pulling at each other. */
#include <math.h>
#include <stdio.h>

enum { BODIES = 5, STEPS = 300000 };
static double position[BODIES][3], velocity[BODIES][3], mass[BODIES];

int main(void) {
    for (int i = 0; i < BODIES; i++) {
        mass[i] = 1.0 / (1 + i);
        for (int k = 0; k < 3; k++) {
            position[i][k] = (i + 1) * (k + 1.5) / (1 + (i + k) % 3);
            velocity[i][k] = 0.01 * ((i * 7 + k * 3) % 5 - 2);
        }
    }
    for (int step = 0; step < STEPS; step++) {
        for (int i = 0; i < BODIES; i++)
            for (int j = i + 1; j < BODIES; j++) {
                double d[3], square = 0.01;
                for (int k = 0; k < 3; k++) d[k] = position[i][k] - position[j][k], square += d[k] * d[k];
                double pull = 0.001 / (square * sqrt(square));
                for (int k = 0; k < 3; k++) {
                    velocity[i][k] -= d[k] * mass[j] * pull;
                    velocity[j][k] += d[k] * mass[i] * pull;
                }
            }
        for (int i = 0; i < BODIES; i++)
            for (int k = 0; k < 3; k++) position[i][k] += 0.001 * velocity[i][k];
    }
    double energy = 0;
    for (int i = 0; i < BODIES; i++)
        for (int k = 0; k < 3; k++) energy += 0.5 * mass[i] * velocity[i][k] * velocity[i][k];
    printf("float %.12f\n", energy);
    return 0;
}
